"""Open a model whose weights stay where they are: its structure, its tokenizer, and what brings the rest."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from superweight import __version__
from superweight.checkpoints.dequantised import kinds, plain_tensors
from superweight.checkpoints.registry import ModelEntry
from superweight.checkpoints.scalars import open_model
from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.core.errors import BadInput, NotLoadable, UnknownArchitecture
from superweight.core.reason import reason
from superweight.model.architecture import inspect_architecture
from superweight.model.block_stream import BlockStream
from superweight.model.dequantised import Wanted, unquantised
from superweight.model.gguf_config import gguf_config
from superweight.model.gguf_parameter_sources import architecture_of, gguf_parameter_sources, header_of
from superweight.model.loading import DTYPES, model_class
from superweight.model.main_memory import SHARE, free_memory
from superweight.model.parameter_sources import ParameterSource, parameter_sources
from superweight.model.stream_plan import plan
from superweight.model.subject import Provenance, Subject
from superweight.model.tokenizer import load_tokenizer
from superweight.model.validation import quiet_transformers, refuse_gaps, refuse_other_library

# What transformers makes a tokenizer and a config of; not every model has each.
DOCUMENTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
)

# How config.json calls the dtype, now and formerly.
_DTYPE = ("dtype", "torch_dtype")
# Tokens of a prompt, of which each may choose experts of its own.
_PROMPT = 16
_log = logging.getLogger("superweight")
_Opened = tuple[PreTrainedModel, Any, Sequence[ParameterSource], str | None]


@dataclass(frozen=True)
class Streamed:
    """A model that is run block by block: the subject, its files, and what brings their tensors."""

    subject: Subject
    checkpoint: Checkpoint
    stream: BlockStream


@contextmanager
def streamed(entry: ModelEntry, *, dtype: str = "auto", ahead: bool = True) -> Iterator[Streamed]:
    """Open the model of ``entry`` for the length of a ``with`` block; its weights are brought as it runs.

    ``dtype`` "auto" is float32, or 16 bits where two blocks in float32 do not fit into the free memory.
    ``ahead`` brings the next block while one runs, where both fit. Raises `BadInput` in one line where the
    files cannot be used, or the model cannot be run block by block.
    """
    checkpoint = open_model(entry)
    checkpoint.tensors()  # the headers of all shards at once
    chosen = DTYPES["float32" if dtype == "auto" else dtype]
    opened = _opened(checkpoint, chosen)
    stream = _stream(checkpoint, opened)
    if dtype == "auto" and (half := _half(stream, checkpoint)) is not None:
        stream.close()
        opened = _opened(checkpoint, half)
        stream = _stream(checkpoint, opened)
    # Where two blocks do not fit, the next one waits until the one before it is gone.
    stream.ahead = ahead and plan(stream, checkpoint, _PROMPT, 0).peak <= free_memory() * SHARE
    model, tokenizer, _, kind = opened
    with stream:
        subject = Subject(
            name=entry.name,
            entry=entry,
            model=model,
            tokenizer=tokenizer,
            architecture=stream.architecture,
            provenance=_provenance(entry, model, tokenizer, kind),
            stream=stream,
        )
        try:
            yield Streamed(subject, checkpoint, stream)
        except RuntimeError as error:
            if "meta" not in str(error).lower():
                raise
            raise UnknownArchitecture(
                f"{checkpoint.name}: {type(model).__name__} computes with a weight that is not there yet "
                f"({reason(error)}), so it is not run block by block; scan it without --stream"
            ) from error


def _stream(checkpoint: Checkpoint, opened: _Opened) -> BlockStream:
    model, _, made, _ = opened
    try:
        return BlockStream(model, inspect_architecture(model), made)
    except UnknownArchitecture as error:
        raise UnknownArchitecture(f"{checkpoint.name}: {error}") from None


def _half(stream: BlockStream, checkpoint: Checkpoint) -> torch.dtype | None:
    """Return the 16-bit dtype of a model of which two blocks in float32 take more than is free, else None."""
    needed, free = plan(stream, checkpoint, _PROMPT, 0).peak, free_memory() * SHARE
    if needed <= free:
        return None
    stored = DTYPES["float16" if _stated_dtype(checkpoint) == "float16" else "bfloat16"]
    _log.warning(
        "two blocks of %s take %.3g GB in float32 and %.3g GB are free; it is computed with in %s",
        checkpoint.name,
        needed / 1e9,
        free / 1e9,
        str(stored).removeprefix("torch."),
    )
    return stored


def _stated_dtype(checkpoint: Checkpoint) -> object:
    config = checkpoint.config
    inner = config.get("text_config")
    stated = [place.get(key) for place in (config, inner) if isinstance(place, dict) for key in _DTYPE]
    return next((name for name in stated if name is not None), None)


def _opened(checkpoint: Checkpoint, chosen: torch.dtype) -> _Opened:
    called = Path(checkpoint.name)
    try:
        with quiet_transformers():
            if checkpoint.is_gguf:
                return _open_gguf(checkpoint, called, chosen)
            return _open_safetensors(checkpoint, called, chosen)
    except BadInput:
        raise
    # Broken files make transformers and tokenizers raise whatever they meet.
    except Exception as error:
        raise NotLoadable(f"{called} does not open: {type(error).__name__}: {reason(error)}") from error


def _open_safetensors(checkpoint: Checkpoint, called: Path, dtype: torch.dtype) -> _Opened:
    documents = _documents(checkpoint)
    if "config.json" not in documents:
        raise BadInput(f"{called} holds no config.json, so what its tensors make up is not known")
    # Made when all has come: whoever is stopped while bytes come leaves no folder behind.
    with tempfile.TemporaryDirectory(prefix="superweight-") as scratch:
        for name, data in documents.items():
            (Path(scratch) / name).write_bytes(data)
        config = transformers.AutoConfig.from_pretrained(scratch, local_files_only=True)
        refuse_other_library(config, called)
        tokenizer = load_tokenizer(Path(scratch), called, remote_code=False)
    model = skeleton(unquantised(config), dtype)
    tensors = plain_tensors(checkpoint)
    wanted = Wanted(model)
    lazy = {name: wanted.lazily(name, tensor, checkpoint) for name, tensor in tensors.items()}
    made, unused = parameter_sources(model, lazy, dtype)
    finish(model, made, unused, called)
    return model, tokenizer, made, kinds(tensors)


def _open_gguf(checkpoint: Checkpoint, called: Path, dtype: torch.dtype) -> _Opened:
    architecture = architecture_of(checkpoint)
    header = header_of(checkpoint)
    with (
        tempfile.TemporaryDirectory(prefix="superweight-") as scratch,
        redirect_stderr(io.StringIO()),  # progress bars of transformers' own
    ):
        header.write(Path(scratch) / "header.gguf")
        config = gguf_config(scratch, "header.gguf", header.metadata)
        tokenizer = transformers.AutoTokenizer.from_pretrained(scratch, gguf_file="header.gguf")
    model = skeleton(unquantised(config), dtype)
    made, unused = gguf_parameter_sources(model, checkpoint, architecture)
    finish(model, made, unused, called, "its metadata")
    return model, tokenizer, made, None


def skeleton(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model of a config without weights: all of it lies on the meta device."""
    auto = model_class(config, remote_code=False)
    with torch.device("meta"):
        model: PreTrainedModel = auto.from_config(config, dtype=dtype)
    model.eval().requires_grad_(False)
    return model


def finish(
    model: PreTrainedModel,
    made: Sequence[ParameterSource],
    unused: Sequence[str],
    called: Path,
    config: str = "config.json",
) -> None:
    """Compute what no file holds, such as rotary tables, and refuse what the files lack or hold beyond it."""
    from transformers.utils.loading_report import LoadStateDictInfo

    targets = {target for source in made for target in source.targets}
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    missing = set(model.state_dict()) - targets
    told: dict[str, Any] = {"missing_keys": set(missing), "unexpected_keys": set(unused)}
    told |= {"mismatched_keys": set(), "error_msgs": [], "conversion_errors": {}}
    # What a version has beyond these are sets of keys.
    told |= {field.name: set() for field in fields(LoadStateDictInfo) if field.name not in told}
    report = LoadStateDictInfo(**told)
    model._adjust_missing_and_unexpected_keys(report)
    refuse_gaps(model, _as_report(report.missing_keys - tied, report.unexpected_keys), called, config)
    for name in targets:
        # What is to be read need not be drawn at random, and nothing is drawn of what is tied.
        model.get_parameter_or_buffer(name)._is_hf_initialized = True
    model.mark_tied_weights_as_initialized(report)
    beside: Any = missing - tied  # a set, whatever the signature says
    model._move_missing_keys_from_meta_to_device(beside, None, None, None)
    model._initialize_missing_keys(False)
    model.requires_grad_(False)


def _as_report(missing: set[str], unexpected: set[str]) -> Mapping[str, Any]:
    return {"mismatched_keys": [], "missing_keys": missing, "unexpected_keys": unexpected}


def _documents(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return the small files of a model: those that its place lists, or that are usual."""
    listed = checkpoint.folder.names()
    names = [name for name in DOCUMENTS if not listed or name in listed]
    found = {name: checkpoint.folder.document(name) for name in names}
    return {name: data for name, data in found.items() if data is not None}


def _provenance(entry: ModelEntry, model: PreTrainedModel, tokenizer: Any, kind: str | None) -> Provenance:
    ids = tokenizer("a")["input_ids"]
    return Provenance(
        source=Path(entry.source).name if (entry.root / entry.source).exists() else entry.source,
        revision=entry.revision,
        # They are not read as a whole.
        weights_sha256="",
        architecture=type(model).__name__,
        parameters=model.num_parameters(),
        device="cpu",
        dtype=str(model.dtype).removeprefix("torch."),
        begins_with_bos=bool(ids) and ids[0] == tokenizer.bos_token_id,
        harness=__version__,
        torch=torch.__version__,
        transformers=transformers.__version__,
        accelerate=accelerate.__version__,
        dequantised=kind,
    )
