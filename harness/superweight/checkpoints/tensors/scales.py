"""Find the scales of stored integers and 8-bit floats in the tensors beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from superweight.checkpoints.tensors.config_groups import block_shapes
from superweight.checkpoints.tensors.decoding import FLOAT8, INTEGERS, Floats, exponents
from superweight.checkpoints.tensors.tensor_info import TensorInfo
from superweight.core.errors import BadInput

# LLM.int8 keeps the largest magnitude of each row, which the code 127 stands for.
_LARGEST_INT8 = 127
# The lengths of blocks in use, the commonest first. No two of them cut an axis into as many blocks.
_USUAL_BLOCKS = (128, 32, 64, 16, 256, 512)
_INSTEAD = "give the checkpoint it was made from, or a GGUF file"


@dataclass(frozen=True)
class Scale:
    """Factors of a tensor's stored numbers, one for each block of it.

    ``factors`` and ``zeros`` have as many dimensions as the tensor. ``shape`` is the tensor's and
    ``blocks`` the length of a block along each of its dimensions. A number is
    (stored - zero) x factor.
    """

    factors: Floats
    zeros: Floats | None
    shape: tuple[int, ...]
    blocks: tuple[int, ...]

    def apply(self, stored: Floats, index: tuple[int, ...]) -> Floats:
        """Return the numbers the model computes with, of the part of the tensor at ``index``."""
        if self.zeros is not None:
            stored = stored - self._part(self.zeros, index)
        return np.asarray(stored * self._part(self.factors, index), dtype=np.float32)

    def at(self, index: tuple[int, ...]) -> float:
        """Return the factor of one number."""
        return float(self._part(self.factors, index))

    def _part(self, values: Floats, index: tuple[int, ...]) -> Floats:
        chosen = tuple(place // block for place, block in zip(index, self.blocks, strict=False))
        part: Floats = values[chosen]
        rest = len(index)
        for axis, (block, length) in enumerate(zip(self.blocks[rest:], self.shape[rest:], strict=True)):
            if block != length:  # one block along the whole of an axis is broadcast
                part = np.repeat(part, block, axis).take(range(length), axis)
        return part


def scale_name(info: TensorInfo, names: Collection[str]) -> str | None:
    """Return which tensor holds the scale of ``info``, or None when it has none and needs none.

    Raises `BadInput` for integer weights whose scale is missing.
    """
    if info.dtype not in (*INTEGERS, *FLOAT8):
        return None
    stem = info.name.removesuffix(".weight")
    candidates = (info.name + "_scale", info.name + "_scale_inv", stem + ".SCB", stem + ".scale")
    found = next((name for name in candidates if name in names), None)
    if found is None and stem != info.name and info.dtype in INTEGERS:
        raise BadInput(
            f"{info.file.name}: {info.name} holds {info.dtype} without a scale beside it, "
            f"so what it means is unknown; {_INSTEAD}"
        )
    return found


def make_scale(
    info: TensorInfo,
    scale: TensorInfo,
    factors: Floats,
    zeros: Floats | None,
    config: Mapping[str, object],
) -> Scale:
    """Fit the factors that ``scale`` holds to a tensor.

    ``config`` is the model's config.json, which may say how long the blocks are. Raises `BadInput`
    when the shapes do not go together.
    """
    name = scale.name
    if name.endswith(".SCB"):
        factors = factors / np.float32(_LARGEST_INT8)
    if scale.dtype == "U8" and info.dtype in FLOAT8:
        factors = exponents(factors)
    factors = _fitted(info, name, factors)
    if zeros is not None:
        zeros = _fitted(info, name, zeros)
        if zeros.shape != factors.shape:
            raise BadInput(f"{info.file.name}: {name} and the zero point beside it differ in shape")
    told = [None, *(blocks[-factors.ndim :] for blocks in block_shapes(config, info.name))]
    for blocks in reversed(told):
        lengths = tuple(_block_lengths(info.shape, factors.shape, blocks))
        if None not in lengths:
            return Scale(factors, zeros, info.shape, tuple(length for length in lengths if length))
    raise _unfit(info, name, factors)


def _block_lengths(
    shape: tuple[int, ...], counts: tuple[int, ...], told: tuple[int, ...] | None
) -> Iterator[int | None]:
    """Return how long a block is along each axis, None where no length makes as many blocks."""
    # What the config says is of the last axes.
    lengths = (None,) * (len(shape) - len(told or ())) + (told or ())
    for axis, (length, count) in enumerate(zip(shape, counts, strict=True)):
        if count == 1:
            yield length
        elif count == length:
            yield 1
        else:
            tried = _USUAL_BLOCKS if told is None else (lengths[axis],)
            yield next((block for block in tried if block and -(-length // block) == count), None)


def _fitted(info: TensorInfo, name: str, values: Floats) -> Floats:
    rank = len(info.shape)
    if values.size == 1:
        return values.reshape((1,) * rank)
    if values.ndim == 1 and rank == 2 and len(values) == info.shape[0]:
        return values[:, None]
    if values.ndim != rank:
        raise _unfit(info, name, values)
    return values


def _unfit(info: TensorInfo, name: str, values: Floats) -> BadInput:
    return BadInput(
        f"{info.file.name}: {name} of shape {list(values.shape)} is no scale of {info.name} of shape "
        f"{list(info.shape)}; the checkpoint is quantised in a way that is not read"
    )
