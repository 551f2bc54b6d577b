"""Tensors of which only the parts that are written take memory."""

from __future__ import annotations

import mmap
import sys
from math import prod

import torch

# What Linux calls it; Python has the name from 3.13 on.
_NORESERVE = 0x4000


def sparse_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return zeros of which only what is written takes memory, however large the whole is.

    >>> sparse_tensor((4, 2), torch.float16).sum().item()
    0.0
    """
    size = max(1, prod(shape) * dtype.itemsize)
    if sys.platform != "linux":
        return torch.zeros(shape, dtype=dtype)
    # Without a reservation: the kernel refuses one that is larger than the machine.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", _NORESERVE)
    room = mmap.mmap(-1, size, flags=flags)
    return torch.frombuffer(room, dtype=dtype, count=prod(shape)).view(shape)
