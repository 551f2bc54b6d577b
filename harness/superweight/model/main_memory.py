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
from superweight.core.errors import BadInput, TooLarge

# The part of the free memory that weights may take; activations and the interpreter need the rest.
SHARE = 0.85
_log = logging.getLogger("superweight")


def dtype_that_fits(directory: Path, config: PreTrainedConfig, name: str) -> torch.dtype:
    """Return float32, or the 16-bit dtype of ``config`` where float32 takes more than is free.

    A warning says so, and calls the model ``name``. Of pickled weights the size is not known from their
    header, and float32 is returned. Raises `TooLarge` where 16 bits take more than all that is free: who
    loads it all the same is ended by the operating system, without a word.
    """
    try:
        numbers = count_numbers(directory)
    except BadInput:
        return torch.float32  # what is wrong with the files is told when they are loaded
    needed, free = numbers * torch.float32.itemsize, free_memory()
    if needed <= free * SHARE:
        return torch.float32
    own = getattr(config, "dtype", None)
    half = own if own in (torch.float16, torch.bfloat16) else torch.bfloat16
    called = str(half).removeprefix("torch.")
    if numbers * half.itemsize > free:
        raise TooLarge(
            f"{name} takes {numbers * half.itemsize / 1e9:.3g} GB in {called} and {free / 1e9:.3g} GB of "
            "main memory are free; superweight scan runs such a model block by block, "
            f"--dtype {called} loads it all the same"
        )
    _log.warning(
        "%s takes %.3g GB in float32 and %.3g GB are free; it is computed with in %s",
        name,
        needed / 1e9,
        free * SHARE / 1e9,
        called,
    )
    return half


def count_numbers(directory: Path) -> int:
    """Return how many numbers a checkpoint's tensors stand for, packed or not.

    Raises `BadInput` for files that are not read from their headers, pickled weights among them.
    """
    return sum(prod(tensor.shape) for tensor in plain_tensors(open_checkpoint(directory)).values())


def free_memory() -> int:
    """Return how many bytes of main memory are free."""
    return int(accelerate.utils.get_max_memory()["cpu"])
