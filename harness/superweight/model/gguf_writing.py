"""Writing the plain copy of a GGUF file: a tensor at a time where transformers' mapping allows it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from superweight.checkpoints.tensors.decoding import Floats
from superweight.checkpoints.tensors.halves import exactly, within_the_step
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.checkpoints.tensors.safetensors_parts import SafetensorsParts
from superweight.core.errors import BrokenModel
from superweight.model.gguf_tensors import converted_tensors, tied_names

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

# Bytes in float32 up to which a copy holds the very numbers that the file dequantises to.
_EXACT_UP_TO = 4 * 10**9
_NAMES = {"uint16": "bfloat16", "float16": "float16"}
_PLAIN = ("F16", "F32", "BF16", "F64")
_METADATA = "its metadata"


def write_streamed(
    whole: Path, gguf: Path, architecture: str, config: PreTrainedConfig, scratch: Path
) -> dict[str, int]:
    """Write weights and config with one tensor in memory; return how many numbers are in which type."""
    import torch
    import transformers

    from superweight.model.validation import refuse_gaps

    # The copy is plain: left in place, this entry would ask for the GGUF again.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        skeleton = transformers.AutoModelForCausalLM.from_config(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    small = sum(prod(shape) for shape in wanted.values()) * 4 <= _EXACT_UP_TO
    counts: dict[str, int] = {}
    written: dict[str, tuple[int, ...]] = {}
    names = [*wanted, *(tensor for tensor in open_checkpoint(whole).files)]
    with SafetensorsParts(scratch, names) as parts:
        for name, numbers, kind in converted_tensors(whole, architecture, skeleton):
            if not _finite(numbers):
                raise BrokenModel(f"{gguf}: tensor {name} holds NaN or infinity; the file is damaged")
            held, how = _held(numbers, kind, small=small)
            parts.add(name, held)
            written[name] = held.shape
            counts[how] = counts.get(how, 0) + held.size
    config.dtype = torch.float32 if small else _commonest(counts)
    config.architectures = [type(skeleton).__name__]
    config.save_pretrained(scratch)
    # Or the cache would keep a copy that nobody can use. What it leaves out transformers does not report.
    report: Mapping[str, Any] = {"mismatched_keys": [], "missing_keys": []}
    due = wanted.keys() - tied_names(skeleton)
    if written.keys() != due or any(shape != wanted[name] for name, shape in written.items()):
        # Names that are changed on the way, tied ones, and what is not there: transformers tells which.
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            scratch, dtype="auto", ignore_mismatched_sizes=True, output_loading_info=True
        )
        report = loaded[1]
    refuse_gaps(skeleton, {**report, "unexpected_keys": _left_out(whole)}, gguf, _METADATA)
    return counts


def _finite(numbers: Floats) -> bool:
    # NaN spreads to both ends, and two reductions make no array as large as the tensor.
    return bool(np.isfinite([numbers.min(initial=0.0), numbers.max(initial=0.0)]).all())


def _held(numbers: Floats, kind: str, *, small: bool) -> tuple[npt.NDArray[Any], str]:
    """Return numbers as they are written, and how: exactly, or within the quantiser's step.

    ``small`` models are kept exact: their float32 copy costs little.
    """
    numbers = np.ascontiguousarray(numbers)
    if numbers.nbytes % 16 == 0:  # or what follows would not lie on its own boundary
        stored = exactly(numbers)
        if stored is not None:
            return stored, f"{_NAMES[stored.dtype.name]}, exact"
        bits = re.search(r"\d", kind)
        if not small and bits is not None and kind not in _PLAIN:
            stored = within_the_step(numbers, int(bits[0]))
            if stored is not None:
                return stored, f"{_NAMES[stored.dtype.name]}, within half a step of {kind}"
    return numbers, "float32, exact"


def _commonest(counts: Mapping[str, int]) -> torch.dtype:
    """Return the type that most numbers are stored in."""
    import torch

    types: dict[str, int] = {}
    for how, count in counts.items():
        name = how.partition(",")[0]
        types[name] = types.get(name, 0) + count
    found: torch.dtype = getattr(torch, max(types, key=lambda name: types[name]))
    return found


def write_whole(whole: Path, gguf: Path, config: PreTrainedConfig, scratch: Path) -> dict[str, int]:
    """Write weights and config of a model that transformers converts in one piece, in float32."""
    import torch
    import transformers
    from safetensors.torch import save_file

    from superweight.model.validation import refuse_broken_numbers, refuse_gaps

    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        str(whole.parent),
        gguf_file=whole.name,
        dtype=torch.float32,
        # Reported, and refused below in words of our own.
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    model, report = loaded
    refuse_gaps(model, {**report, "unexpected_keys": _left_out(whole)}, gguf, _METADATA)
    refuse_broken_numbers(model, gguf)
    tensors = _distinct_tensors(model)
    save_file(tensors, scratch / "model.safetensors", metadata={"format": "pt"})
    config = model.config
    del config.quantization_config
    config.save_pretrained(scratch)
    return {"float32, exact": sum(tensor.numel() for tensor in tensors.values())}


def _left_out(gguf: Path) -> list[str]:
    """Return the names of all tensors of decoder blocks, of which `refuse_gaps` finds those beyond the last.

    A block that predicts more tokens is stored after those of the decoder, which do without it.
    """
    names = [name for name in open_checkpoint(gguf).files if name.startswith("blk.")]
    beside = {name.split(".")[1] for name in names if ".nextn." in name}
    return [name for name in names if name.split(".")[1] not in beside]


def _distinct_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the state dict without tensors that are tied to an earlier one."""
    seen: set[int] = set()
    distinct = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            distinct[name] = tensor.contiguous()
    return distinct
