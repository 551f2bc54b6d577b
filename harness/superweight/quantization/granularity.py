"""Block layouts: which entries of a matrix share one step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from superweight.core.errors import BadInput

# A view of some blocks, and the dimensions of it that one block spans.
Blocks = tuple[torch.Tensor, tuple[int, ...]]


class Layout(ABC):
    """A partition of a matrix into blocks; the last of a side or row of blocks may be smaller.

    `PerTensor` and `PerRow` also take matrices in a stack, each by itself: (matrices, rows, columns).
    """

    @abstractmethod
    def split(self, matrix: torch.Tensor) -> Iterator[Blocks]:
        """Yield views that together hold every entry of a contiguous (rows, columns) matrix once."""


@dataclass(frozen=True)
class PerTensor(Layout):
    """The whole matrix is one block."""

    def split(self, matrix: torch.Tensor) -> Iterator[Blocks]:
        yield matrix, (-2, -1)

    def __str__(self) -> str:
        return "per tensor"


@dataclass(frozen=True)
class PerRow(Layout):
    """Each row, one output channel of a weight or one token of an activation, is a block."""

    def split(self, matrix: torch.Tensor) -> Iterator[Blocks]:
        yield matrix, (-1,)

    def __str__(self) -> str:
        return "per row"


@dataclass(frozen=True)
class PerBlock(Layout):
    """Squares of ``side`` by ``side``, cut off at the right and at the bottom (the paper's "block")."""

    side: int

    def __post_init__(self) -> None:
        _require_positive(self.side)

    def split(self, matrix: torch.Tensor) -> Iterator[Blocks]:
        rows, columns = matrix.shape
        for top, bottom, height in _spans(rows, self.side):
            for left, right, width in _spans(columns, self.side):
                region = matrix[top:bottom, left:right]
                # (blocks down, height, blocks across, width)
                yield region.unflatten(0, (-1, height)).unflatten(2, (-1, width)), (1, 3)

    def __str__(self) -> str:
        return f"tiles of {self.side} x {self.side}"


@dataclass(frozen=True)
class PerGroup(Layout):
    """Runs of ``size`` entries, row after row; the last run is what is left."""

    size: int

    def __post_init__(self) -> None:
        _require_positive(self.size)

    def split(self, matrix: torch.Tensor) -> Iterator[Blocks]:
        flat = matrix.view(-1)
        for start, stop, length in _spans(len(flat), self.size):
            yield flat[start:stop].unflatten(0, (-1, length)), (1,)

    def __str__(self) -> str:
        return f"groups of {self.size:,}"


def _spans(extent: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, block length): the stretch of whole blocks, then what is left over."""
    whole = extent - extent % size
    if whole:
        yield 0, whole, size
    if whole < extent:
        yield whole, extent, extent - whole


def _require_positive(size: int) -> None:
    if size < 1:
        raise BadInput(f"a block of size {size} holds nothing; give 1 or more")
