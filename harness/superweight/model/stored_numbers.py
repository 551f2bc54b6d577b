"""Read a stored tensor's numbers into a tensor of torch, without a copy in float32 where none is needed."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from superweight.checkpoints.tensors.scales import Scale
from superweight.model.dequantised import LazyTensor

_PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_FLOAT8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
# Of 8-bit floats so many numbers are scaled at a time: 64 MiB in float32.
_SCALED = 2**24


def read_whole(stored: LazyTensor, dtype: torch.dtype) -> torch.Tensor:
    """Read a tensor that ``dtype`` is made of: in the dtype it is stored in, or unpacked.

    Numbers that are scaled are computed in float32 and may be in ``dtype`` already.
    """
    plain = stored.tensor
    if stored.in_order and plain.is_plain and plain.info.dtype in _PLAIN:
        return _bytes(stored, 0, stored.shape, _PLAIN[plain.info.dtype])
    if stored.in_order and plain.packed is None and plain.checkpoint.merged is None and plain.expert is None:
        scale = plain.checkpoint.scale(plain.info.name) if plain.info.dtype in _FLOAT8 else None
        if scale is not None and scale.zeros is None and len(stored.shape) == 2:
            return _scaled(stored, scale, dtype)
    return stored[...]


def read_part(stored: LazyTensor, index: int) -> torch.Tensor:
    """Read the part of a tensor at one index of its first dimension, as `read_whole`."""
    plain = stored.tensor
    if stored.in_order and plain.is_plain and plain.info.dtype in _PLAIN:
        return _bytes(stored, index, stored.shape[1:], _PLAIN[plain.info.dtype])
    return stored.part(index)


def _bytes(stored: LazyTensor, index: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Read bytes straight into a tensor: a copy of a block of the largest models does not fit beside it.

    A file of this machine is mapped where the numbers lie on their own boundaries, and not copied at all.
    """
    info, expert, count = stored.tensor.info, stored.tensor.expert or 0, prod(shape)
    start = info.start + (expert * prod(stored.shape) + index * count) * dtype.itemsize
    if count and start % dtype.itemsize == 0:
        mapped = info.file.mapped(start, start + count * dtype.itemsize)
        if mapped is not None:
            return torch.frombuffer(mapped, dtype=dtype, count=count).view(shape)
    numbers = torch.empty(shape, dtype=dtype)
    if count:
        target: Any = numbers.view(-1).view(torch.uint8).numpy()
        info.file.read_into(start, memoryview(target))
    return numbers


def _scaled(stored: LazyTensor, scale: Scale, dtype: torch.dtype) -> torch.Tensor:
    """Read 8-bit floats times their scales, as `Scale.apply` computes them, some rows at a time."""
    rows, cols = stored.shape
    codes = _bytes(stored, 0, (rows, cols), torch.uint8).view(_FLOAT8[stored.tensor.info.dtype])
    factors, (down, across) = torch.tensor(scale.factors), scale.blocks
    numbers = torch.empty((rows, cols), dtype=dtype)
    each = max(1, _SCALED // max(1, cols))
    for first in range(0, rows, each):
        last = min(rows, first + each)
        own = factors[torch.arange(first, last) // down].repeat_interleave(across, 1)[:, :cols]
        numbers[first:last] = codes[first:last].float().mul_(own)
    return numbers
