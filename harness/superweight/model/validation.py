"""Check that a model's files are sound, and that all they contain was loaded.

A loader that fills a gap with random numbers, or leaves out the blocks that a config forgets, hands
over a model that nobody published. Nothing measured with it would count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from superweight.checkpoints.prefixes import wrapped_names
from superweight.checkpoints.recognition import quantised_elsewhere
from superweight.core.errors import BadInput, BrokenModel

_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks|blk)\.(\d+)\.")


def refuse_gaps(
    model: PreTrainedModel, report: Mapping[str, Any], path: Path, config: str = "config.json"
) -> None:
    """Hold a loaded model to what transformers reports of its loading.

    ``config`` is what the file is called that describes the model. Raises
    `BrokenModel` naming the tensor: one that the model needs and the files lack, one of another shape
    than the config asks for, or one of a block that the config does not have.
    """
    for name, stored, wanted in sorted(report["mismatched_keys"], key=lambda item: str(item[0])):
        raise BrokenModel(
            f"{path}: tensor {name} has shape {list(stored)} where {config} asks for {list(wanted)}; "
            "the two do not belong together"
        )
    if (why := wrapped_names(report["unexpected_keys"], report["missing_keys"])) is not None:
        raise BadInput(f"{path}: {why}")
    if missing := sorted(report["missing_keys"]):
        raise BrokenModel(
            f"{path}: tensor {missing[0]} is missing{_and_more(missing)}, and would be filled with "
            f"random numbers; the checkpoint is incomplete, or {config} belongs to another one"
        )
    count = model.config.get_text_config().num_hidden_layers
    beyond = [name for name in sorted(report["unexpected_keys"]) if _block(name) >= count]
    if beyond:
        raise BrokenModel(
            f"{path}: tensor {beyond[0]}{_and_more(beyond)} would be left out, because {config} has "
            f"{count} blocks; it belongs to another checkpoint"
        )


def refuse_other_library(config: PreTrainedConfig, path: Path) -> None:
    """Raise `BadInput` for weights that are packed for a library which is not transformers."""
    if (what := quantised_elsewhere(config.to_dict())) is not None:
        raise BadInput(
            f"{path} is {what}, which transformers does not compute with; give the safetensors checkpoint or "
            "the GGUF file it was made from"
        )


def _block(name: str) -> int:
    match = _BLOCK.search(name)
    return -1 if match is None else int(match[1])


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def refuse_broken_numbers(model: PreTrainedModel, path: Path) -> None:
    """Raise `BrokenModel` naming the tensor when a parameter holds NaN or infinity."""
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and not tensor.is_meta and not is_finite(tensor):
            raise BrokenModel(f"{path}: tensor {name} holds NaN or infinity; the file is damaged")


def is_finite(tensor: torch.Tensor) -> bool:
    """Tell whether all numbers of a floating-point tensor are finite, packed by torchao or not."""
    # A sum that is finite has no other terms, and takes a tenth of the time; large ones may add up to more.
    # It is not asked for in float32: of 16 bits torch would then make a copy of all first.
    try:
        return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
    except NotImplementedError:  # torchao's integers, whose numbers are what they stand for; 8-bit floats
        plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
        return bool((tensor.float() if plain else tensor.dequantize()).isfinite().all())


def refuse_other_than_asked(model: PreTrainedModel, device: torch.device, dtype: torch.dtype | str) -> None:
    """Raise `BadInput` when a model came up on another device, or in another dtype, than was asked for.

    ``dtype`` "auto" asks for none. Its verdicts would be held to nobody's baseline.
    """
    if isinstance(dtype, torch.dtype) and model.dtype != dtype:
        raise BadInput(f"the model was asked for in {dtype} and came up in {model.dtype}; check its config")
    astray = {tensor.device.type for tensor in model.parameters()} - {device.type, "meta"}
    if astray:
        raise BadInput(f"the model was asked for on {device.type} and lies on {', '.join(sorted(astray))}")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own account of a loading from standing beside the one line of a refusal."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    # Reading is quick and its progress bars would stand between a test's dots.
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
