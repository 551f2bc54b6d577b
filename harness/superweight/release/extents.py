"""Measure how large the numbers of two tensors are, and how many rows differ, in one look at both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.decoding import Floats

# Below this share of the median a row says nothing, and rounding may well empty it.
FAINT = 0.01
# Rounding to three bits moves the median number by a third of itself, hard tuning by a half; another
# row, by 1.4 times itself.
_MOVED = 0.9
# As many numbers of a row tell it from another.
_COLUMNS = 64
# As many numbers of a tensor give its median well enough.
_SAMPLE = 2**13
# As many numbers are looked at together: a processor's cache holds them. Arrays as large as the
# tensor would take half the time only to be made.
_PIECE = 2**17


@dataclass(frozen=True)
class Table:
    """A tensor as rows, read a run of them at a time: ``rows(first, upto)`` is (upto - first, width).

    A tensor of one dimension is one row; those behind the first two are run together.
    """

    shape: tuple[int, ...]
    rows: Callable[[int, int], Floats]

    @property
    def count(self) -> int:
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def width(self) -> int:
        return int(np.prod(self.shape[1:] if len(self.shape) > 1 else self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Extent:
    """The largest magnitude of each row and each column of a table, and the median of those above zero.

    ``median`` is of a sample, and None where all of it is zero.
    """

    rows: Floats
    cols: Floats
    median: float | None

    @property
    def largest(self) -> float:
        return float(self.rows.max())

    @property
    def peak(self) -> float:
        """The largest magnitude over the median; 1 where all are zero."""
        return self.largest / self.median if self.median and self.largest > 0 else 1.0


def in_memory(values: Floats) -> Table:
    """Return the rows of a tensor that was read whole."""
    table = values.reshape(len(values), -1) if values.ndim > 1 else values.reshape(1, -1)
    return Table(values.shape, lambda first, upto: table[first:upto])


def in_file(checkpoint: Checkpoint, name: str, count: int | None = None) -> Table:
    """Return the first ``count`` rows of a tensor, or all; read as they are asked for where they can be.

    Raises `BadInput` where the tensor cannot be read.
    """
    shape = checkpoint.info(name).shape
    if len(shape) < 2 or checkpoint.scaled(name):
        return in_memory(checkpoint.read(name)[:count])
    counted = (shape[0] if count is None else min(count, shape[0]), *shape[1:])
    width = int(np.prod(shape[1:], dtype=np.int64))
    checkpoint.stored(name, 0, upto=min(1, counted[0]))  # a type that cannot be read is told here

    def rows(first: int, upto: int) -> Floats:
        return checkpoint.stored(name, first, upto=upto).reshape(-1, width).astype(np.float32, copy=False)

    return Table(counted, rows)


def extents(before: Table, after: Table) -> tuple[Extent, Extent, float]:
    """Return the extent of two tables of one shape, and the share of rows that hold other numbers.

    A row is another by the median of some of its numbers: rounded and tuned ones are not.
    """
    looks = _Look(before), _Look(after)
    each = max(1, _PIECE // max(1, before.width))
    for first in range(0, before.count, each):
        for table, look in zip((before, after), looks, strict=True):
            look.take(first, table.rows(first, min(before.count, first + each)))
    return looks[0].extent(), looks[1].extent(), _other(looks[0].some, looks[1].some)


class _Look:
    """What is kept of a table that goes by in runs of rows."""

    def __init__(self, table: Table) -> None:
        self.rows = np.empty(table.count, np.float32)
        self.cols = np.zeros(table.width, np.float32)
        self.columns = slice(0, None, max(1, table.width // _COLUMNS))
        self.some = np.empty((table.count, len(range(table.width)[self.columns])), np.float32)
        self.every = max(1, table.count * table.width // _SAMPLE)
        self.sample: list[Floats] = []
        self.sizes = np.empty((0, table.width), np.float32)

    def take(self, first: int, piece: Floats) -> None:
        if len(self.sizes) < len(piece):
            self.sizes = np.empty(piece.shape, np.float32)
        sizes = np.abs(piece, out=self.sizes[: len(piece)])
        sizes.max(axis=1, out=self.rows[first : first + len(piece)])
        np.maximum(self.cols, sizes.max(axis=0), out=self.cols)
        self.some[first : first + len(piece)] = piece[:, self.columns]
        self.sample.append(sizes.reshape(-1)[:: self.every].copy())

    def extent(self) -> Extent:
        sample = np.concatenate(self.sample)
        sample = sample[sample > 0]
        return Extent(self.rows, self.cols, float(np.median(sample)) if len(sample) else None)


def _other(was: Floats, now: Floats) -> float:
    """Return the share of rows that hold other numbers, by the median of some of each row's."""
    size = np.median(np.abs(was), axis=1)
    # The floor lets rows be that are as good as empty, such as those of tokens nobody trained.
    floor = FAINT * np.median(size)
    # Half of the numbers moved further than the bound where their median did; to count is quicker.
    beyond = np.abs(now - was) > (_MOVED * size + floor)[:, None]
    return float(np.mean(2 * np.count_nonzero(beyond, axis=1) > beyond.shape[1]))
