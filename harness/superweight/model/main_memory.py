"""Choose the dtype to compute with on a CPU: float32 where main memory has room for it."""

from __future__ import annotations

import logging
from math import prod
from pathlib import Path

import accelerate
import torch
from transformers import PreTrainedConfig

from superweight.checkpoints.dequantised import plain_tensors
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.core.errors import BadInput

# The part of the free memory that weights may take; activations and the interpreter need the rest.
SHARE = 0.85
_log = logging.getLogger("superweight")


def dtype_that_fits(directory: Path, config: PreTrainedConfig, name: str) -> torch.dtype:
    """Return float32, or the 16-bit dtype of ``config`` where float32 takes more than is free.

    A warning says so, and calls the model ``name``. Of pickled weights the size is not known from their
    header, and float32 is returned.
    """
    try:
        numbers = sum(prod(tensor.shape) for tensor in plain_tensors(open_checkpoint(directory)).values())
    except BadInput:
        return torch.float32  # what is wrong with the files is told when they are loaded
    needed, free = numbers * torch.float32.itemsize, free_memory() * SHARE
    if needed <= free:
        return torch.float32
    own = getattr(config, "dtype", None)
    half = own if own in (torch.float16, torch.bfloat16) else torch.bfloat16
    _log.warning(
        "%s takes %.3g GB in float32 and %.3g GB are free; it is computed with in %s",
        name,
        needed / 1e9,
        free / 1e9,
        str(half).removeprefix("torch."),
    )
    return half


def free_memory() -> int:
    """Return how many bytes of main memory are free."""
    return int(accelerate.utils.get_max_memory()["cpu"])
