"""Load a model from its files into a `Subject`."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from superweight import __version__
from superweight.checkpoints.adapter_source import named_adapter
from superweight.checkpoints.adapters import WEIGHTS as ADAPTER_WEIGHTS
from superweight.checkpoints.adapters import Adapter, adapted, open_adapter, refuse_unapplied
from superweight.checkpoints.cache import Progress, sha256, silent
from superweight.checkpoints.integrity import refuse_unsound_files
from superweight.checkpoints.local_model import LocalModel
from superweight.checkpoints.registry import ModelEntry, resolve
from superweight.checkpoints.sources import fetch, local_path
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.checkpoints.weight_files import loadable, weight_files
from superweight.core.environment import DEVICES
from superweight.core.errors import BadInput, NotLoadable, UnknownArchitecture
from superweight.core.reason import reason
from superweight.model.architecture import inspect_architecture
from superweight.model.block_list import token_embedding
from superweight.model.dequantised import load_dequantised, needs_dequantising
from superweight.model.devices import accelerator, make_deterministic, multiply_in_float32, present
from superweight.model.gguf_conversion import converted_copy, original_sha256, rounding
from superweight.model.main_memory import count_numbers, dtype_that_fits
from superweight.model.placement import place_model, stored_bytes
from superweight.model.projections import execution_device
from superweight.model.subject import Provenance, Subject
from superweight.model.tokenizer import load_tokenizer
from superweight.model.validation import (
    quiet_transformers,
    refuse_broken_numbers,
    refuse_gaps,
    refuse_other_library,
    refuse_other_than_asked,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TRUSTS = ("pickle", "remote-code")


def load(
    entry: ModelEntry,
    *,
    device: str = "auto",
    dtype: str = "auto",
    trust: Collection[str] = (),
    offload: bool = True,
    progress: Progress = silent,
) -> Subject:
    """Load the model of ``entry``.

    ``dtype`` "auto" is the checkpoint's own on an accelerator, on a CPU float32, or 16 bits where float32
    does not fit. ``device`` "auto" is CUDA where there is one. An adapter that is named by itself is
    merged into its base; one that lies beside a whole model is left out, whether or not peft is
    installed, and a warning says so. Packed weights that nothing installed computes with are
    dequantised, tensor by tensor. What does not fit on one GPU is spread over all, and with
    ``offload`` the rest stays in main memory. ``trust`` may name "pickle" or "remote-code", both
    refused otherwise. ``progress`` is told of a download and of a conversion. Raises `BadInput` in
    one line when the files cannot be used, `TooLarge` when there is too little memory.
    """
    where = _device(device)
    multiply_in_float32()
    if where.type == "cuda":
        make_deterministic()
    named = named_adapter(entry, progress)
    adapter = None if named is None else open_adapter(named[0])
    whole = entry if named is None or adapter is None else resolve(named[1] or adapter.base)
    local = fetch(whole, allow_pickle="pickle" in trust, progress=progress)
    if local.is_gguf:
        refuse_unsound_files(local.path, quantised=True)
    directory = converted_copy(local.path, progress) if local.is_gguf else local.path
    remote_code = "remote-code" in trust
    try:
        with quiet_transformers(), loadable(directory) as folder:
            config = transformers.AutoConfig.from_pretrained(
                folder, trust_remote_code=remote_code, local_files_only=True
            )
            refuse_other_library(config, local.path)
            unpacked = adapter is not None or needs_dequantising(config, where)
            if any(directory.glob("*.safetensors")):
                quantised = unpacked or getattr(config, "quantization_config", None) is not None
                refuse_unsound_files(directory, quantised=quantised)
            asked = _dtype(dtype, where, config, unpacked=unpacked)
            if asked is torch.float32 and dtype == "auto":
                asked = dtype_that_fits(directory, config, local.path.name)
            auto_class = model_class(config, remote_code=remote_code)
            # Of CUDA alone torch says how much memory is free: another device itself tells what does not fit.
            weights = weight_bytes(directory, dtype, config, unpacked=unpacked) if where.type == "cuda" else 0
            options: dict[str, Any] = {
                "dtype": asked,
                **_layout(where, weights, offload=offload),
                "trust_remote_code": remote_code,
                # Reported, and refused below in words of our own.
                "ignore_mismatched_sizes": True,
                "output_loading_info": True,
            }
            kind = rounding(directory)
            if unpacked:
                checkpoint = open_checkpoint(directory)
                if adapter is not None:
                    refuse_unapplied(checkpoint, adapter)
                    checkpoint = adapted(checkpoint, adapter)
                model, report, kind = load_dequantised(checkpoint, config, auto_class, **options)
            else:
                model, report = auto_class.from_pretrained(
                    folder,
                    use_safetensors=None if "pickle" in trust else True,
                    local_files_only=True,
                    **options,
                    **_quantization(config),
                )
            tokenizer = load_tokenizer(folder, local.path, remote_code=remote_code)
        refuse_gaps(model, report, local.path)
        architecture = inspect_architecture(model)
    except UnknownArchitecture as error:
        raise UnknownArchitecture(f"{local.path}: {error}") from None
    except BadInput:
        raise
    # Broken files make safetensors, transformers and tokenizers raise whatever they meet.
    except Exception as error:
        raise NotLoadable(f"{local.path} does not load: {type(error).__name__}: {reason(error)}") from error
    model.eval()
    model.requires_grad_(False)
    refuse_broken_numbers(model, local.path)
    refuse_other_than_asked(model, where, asked)
    return Subject(
        name=entry.name,
        entry=entry,
        model=model,
        tokenizer=tokenizer,
        architecture=architecture,
        provenance=_provenance(whole, local, directory, model, tokenizer, kind, adapter),
    )


def _device(name: str) -> torch.device:
    if name not in DEVICES:
        raise BadInput(f"device {name!r} is none of {', '.join(DEVICES)}")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("device cuda was asked for, but torch sees no CUDA device")
    if name not in ("cpu", "cuda"):
        seen = accelerator()
        if seen != name:
            raise BadInput(
                f"device {name} was asked for, but torch sees {f'only {seen}' if seen else 'no accelerator'} "
                "here; give --device auto or cpu"
            )
    return torch.device(name)


def _layout(where: torch.device, weights: int, *, offload: bool) -> dict[str, Any]:
    """Return what ``from_pretrained`` must be told about where weights of so many bytes go."""
    if where.type == "cpu":
        return {"device_map": None}
    if where.type != "cuda":
        return {"device_map": {"": where}}
    main_memory = int(accelerate.utils.get_max_memory()["cpu"]) if offload else 0
    placement = place_model(weights, [device.free for device in present()], beside=main_memory)
    if placement.max_memory is None:
        return {"device_map": {"": where}}
    return {"device_map": "auto", "max_memory": dict(placement.max_memory)}


def weight_bytes(directory: Path, dtype: str, config: PreTrainedConfig, *, unpacked: bool) -> int:
    """Return the bytes that a checkpoint's weights take in the dtype asked for, "auto" for its own.

    With ``unpacked`` every number is reckoned by itself, whatever it is packed in.
    """
    own = getattr(config, "dtype", None)
    stored = own if isinstance(own, torch.dtype) else None
    asked = DTYPES.get(dtype, stored)
    if unpacked:
        return count_numbers(directory) * (asked or torch.float32).itemsize
    grows = asked.itemsize / stored.itemsize if asked is not None and stored is not None else 1.0
    return int(stored_bytes(directory) * grows)


def _dtype(name: str, device: torch.device, config: PreTrainedConfig, *, unpacked: bool) -> torch.dtype | str:
    if name == "auto":
        # A quantised build's scales and kernels are made for the dtype it was saved with.
        packed = getattr(config, "quantization_config", None) is not None and not unpacked
        own = device.type != "cpu" or packed
        return "auto" if own else torch.float32
    if name not in DTYPES:
        raise BadInput(f"dtype {name!r} is none of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def model_class(config: PreTrainedConfig, *, remote_code: bool) -> Any:
    """Return the auto class for a decoder, or for one inside a vision-language model."""
    # The mappings are the only place where transformers says which classes exist.
    if remote_code or type(config) in transformers.AutoModelForCausalLM._model_mapping:
        return transformers.AutoModelForCausalLM
    if type(config) in transformers.AutoModelForImageTextToText._model_mapping:
        return transformers.AutoModelForImageTextToText
    raise UnknownArchitecture(
        f"{type(config).__name__} describes no causal language model that transformers knows; "
        "a decoder, or a vision-language model with one inside, was looked for"
    )


def _quantization(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what ``from_pretrained`` must be told about a quantised build."""
    stored = getattr(config, "quantization_config", None)
    stored = stored if isinstance(stored, dict) else {}
    if stored.get("quant_method") == "compressed-tensors":
        # Left compressed, its modules have no weight to compute with until a first full pass.
        return {"quantization_config": transformers.CompressedTensorsConfig(dequantize=True)}
    return {}


def _provenance(
    entry: ModelEntry,
    local: LocalModel,
    directory: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dequantised: str | None,
    adapter: Adapter | None,
) -> Provenance:
    ids = tokenizer("a")["input_ids"]
    # A path says more about the machine than about the model: only its last part is kept.
    source = Path(entry.source).name if local_path(entry).exists() else entry.source
    digest = original_sha256(directory) or _weights_sha256(directory)
    if adapter is not None:
        source = f"{adapter.folder.name} on {source}"
        digest = _of_all([sha256(adapter.folder / ADAPTER_WEIGHTS), digest])
    return Provenance(
        source=source,
        revision=local.revision,
        weights_sha256=digest,
        architecture=type(model).__name__,
        parameters=model.num_parameters(),
        device=execution_device(token_embedding(model) or model).type,
        dtype=str(model.dtype).removeprefix("torch."),
        # Asking the tokenizer's settings is not enough: only the first id tells.
        begins_with_bos=bool(ids) and ids[0] == tokenizer.bos_token_id,
        harness=__version__,
        torch=torch.__version__,
        transformers=transformers.__version__,
        accelerate=accelerate.__version__,
        hardware=_hardware(model),
        dequantised=dequantised,
    )


def _hardware(model: PreTrainedModel) -> str | None:
    """Return the names of the GPUs that hold parts of a model, or None."""
    indices = {parameter.device.index for parameter in model.parameters() if parameter.is_cuda}
    return ", ".join(torch.cuda.get_device_name(index) for index in sorted(indices)) or None


def _weights_sha256(directory: Path) -> str:
    """Return the SHA-256 of the weights file, or one over the digests of all shards."""
    digests = [sha256(path) for path in weight_files(directory)]
    return digests[0] if len(digests) == 1 else _of_all(digests)


def _of_all(digests: Sequence[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()
