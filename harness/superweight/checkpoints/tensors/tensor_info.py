"""Define what a file's header says of one tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from superweight.checkpoints.tensors.files import File
from superweight.core.errors import BrokenModel


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: what it is called, how it is stored and where.

    ``shape`` has the outputs first, in GGUF files too. The bytes from ``start`` to ``end`` of
    ``file`` are a run of blocks of ``block_bytes``, each of which holds ``block_elements`` numbers;
    plain types have blocks of one. ``dtype`` is what the format calls it ("BF16", "Q4_1").
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: File
    start: int
    end: int
    block_elements: int
    block_bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


Header = Mapping[str, TensorInfo]


def refuse_overlaps(header: Header, file: File) -> None:
    """Raise `BadInput` when two tensors of a file share bytes."""
    ordered = sorted((info for info in header.values() if info.end > info.start), key=lambda info: info.start)
    for first, second in pairwise(ordered):
        if second.start < first.end:
            raise BrokenModel(
                f"{file.name}: {first.name!r} and {second.name!r} overlap; the header is corrupt"
            )


def refuse_truncation(header: Header, file: File) -> None:
    """Raise `BadInput` when a tensor lies beyond the end of its file."""
    for info in header.values():
        if info.end > file.size:
            raise BrokenModel(
                f"{file.name} has {file.size} bytes, but {info.name!r} lies at bytes {info.start} to "
                f"{info.end}; it is truncated, so fetch it again"
            )
