"""Define a form of release: how its tensors are recognised, and how a part of a matrix is unpacked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from superweight.checkpoints.tensors.decoding import Floats, four_bit_floats, nibbles
from superweight.checkpoints.tensors.tensor_info import TensorInfo
from superweight.core.errors import BadInput

Stored = npt.NDArray[Any]
Gap = Callable[[float], float]


class Source(Protocol):
    """A checkpoint, as far as a form needs it."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    @property
    def files(self) -> Collection[str]:
        """The names of its tensors."""

    @property
    def config(self) -> Mapping[str, object]:
        """Its config.json."""

    def info(self, name: str) -> TensorInfo:
        """Return what the header says of a tensor."""

    def stored(self, name: str, *index: int, upto: int | None = None) -> Stored:
        """Return a tensor as it is stored, or its part at a leading index.

        With ``upto`` the last number of the index is the first of a range that ends before it.
        """


@dataclass(frozen=True)
class Codes:
    """A part of a matrix before it is scaled: a number is code x scale + offset.

    ``codes`` is (rows, columns); ``scales`` and ``offsets`` are as large, or are broadcast. ``gap``
    says how far apart the codes are around one of them; None where they lie on no grid.
    """

    codes: Floats
    scales: Floats
    gap: Gap | None
    offsets: Floats | None = None

    @property
    def numbers(self) -> Floats:
        scaled = self.codes * self.scales
        return np.asarray(scaled if self.offsets is None else scaled + self.offsets, dtype=np.float32)

    @property
    def step(self) -> float | None:
        """How far the first number moves when its code changes by the smallest amount."""
        if self.gap is None:
            return None
        return abs(float(self.scales.flat[0])) * self.gap(float(self.codes.flat[0]))


@dataclass(frozen=True)
class Packed:
    """One matrix, or one of several experts, in a packed form.

    ``kind`` is what the form and its bits are called. ``shape`` is that of the weights, outputs
    before inputs. ``part`` unpacks the given rows and columns, behind the index of the expert.
    ``flat`` says that the files do not tell the shape, but the numbers are in order.
    """

    kind: str
    shape: tuple[int, ...]
    part: Callable[[tuple[int, ...], slice, slice], Codes]
    flat: bool = False

    def matrix(self, leading: tuple[int, ...] = ()) -> Floats:
        """Return W: (outputs, inputs)."""
        rows, cols = self.shape[-2:]
        return self.part(leading, slice(0, rows), slice(0, cols)).numbers

    def row(self, leading: tuple[int, ...], row: int) -> Floats:
        """Return W[row, :]: (inputs,)."""
        return np.asarray(self.part(leading, slice(row, row + 1), slice(0, self.shape[-1])).numbers[0])

    def at(self, leading: tuple[int, ...], row: int, col: int) -> tuple[float, float | None]:
        """Return W[row, col] and the step of its group."""
        part = self.part(leading, slice(row, row + 1), slice(col, col + 1))
        return float(part.numbers[0, 0]), part.step


@dataclass(frozen=True)
class Description:
    """What a person is told of a form: who makes it, what a number is, and what the reader was held to."""

    name: str
    made_by: str
    layout: str
    checked_against: str


@dataclass(frozen=True, kw_only=True)
class Form(Description):
    """One way of packing.

    ``suffixes`` are how the tensor that holds the codes may end; what precedes is the stem.
    ``holds`` tells whether the tensors around a stem are of this form.
    """

    suffixes: tuple[str, ...]
    holds: Callable[[Source, str], bool]
    unpack: Callable[[Source, str], Packed]


def misfit(source: Source, name: str, form: str) -> BadInput:
    """Return the refusal of a tensor whose shape or type is not what its form says."""
    info = source.info(name)
    return BadInput(
        f"{info.file.name}: {name}, {info.dtype} of shape {list(info.shape)}, does not go with the "
        f"tensors beside it as {form}; the file is damaged, or of a newer layout: fetch it again, or "
        "give the checkpoint it was made from"
    )


def unread(name: str, kind: str, instead: str) -> BadInput:
    """Return the refusal of a form that is recognised and not read."""
    return BadInput(f"{name} is packed as {kind}, which is not read; {instead}")


def evenly(_: float) -> float:
    """Return the gap between integers."""
    return 1.0


def e2m1_gap(value: float) -> float:
    """Return the gap between 4-bit floats around one of them."""
    magnitude = abs(value)
    return 0.5 if magnitude < 2 else 1.0 if magnitude < 4 else 2.0


def e2m1(packed: Stored) -> Floats:
    """Return the 4-bit floats packed two a byte along the last axis, the lower half first."""
    return four_bit_floats(packed.view(np.uint8))


def unpacked(words: Stored, bits: int) -> npt.NDArray[np.uint32]:
    """Return the codes of ``bits`` each in a row of bits, the lowest of every word first.

    They lie along the last axis. Codes may straddle two words.
    """
    data = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return data.astype(np.uint32)
    if bits == 4:
        return nibbles(data).astype(np.uint32)
    row = np.unpackbits(data, axis=-1, bitorder="little")
    count = row.shape[-1] // bits
    codes = row[..., : count * bits].reshape(*row.shape[:-1], count, bits)
    return np.asarray(codes @ (1 << np.arange(bits, dtype=np.uint32)), dtype=np.uint32)


def along(values: Stored, cols: slice, group: int) -> Floats:
    """Spread values of groups of columns, (rows, groups), over the given columns."""
    return np.asarray(values[:, np.arange(cols.start, cols.stop) // group], dtype=np.float32)


def setting(settings: Mapping[str, object], name: str, default: int) -> int:
    """Return a positive number of a config, ``default`` where it has none."""
    value = settings.get(name)
    return value if type(value) is int and value > 0 else default
