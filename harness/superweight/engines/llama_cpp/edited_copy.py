"""Write a copy of a GGUF file in which some tensors are float32, with some of their scalars scaled.

The rest of the file is the original's, byte for byte, at places that move by what the tensors grow. It
is shared with the original where the file system can share blocks, and copied where it cannot.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.files import LocalFile
from superweight.checkpoints.tensors.gguf import read_header
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.checkpoints.tensors.tensor_info import TensorInfo
from superweight.core.errors import BadInput, EditFailed

_log = logging.getLogger(__name__)

FLOAT32 = "F32"
_DEFAULT_ALIGNMENT = 32
_BLOCK = 4096
_PIECE = 2**24
# ioctl of Linux that lets two files share blocks.
_FICLONERANGE = 0x4020940D


@dataclass(frozen=True)
class ScalarEdit:
    """One number of one tensor, by an index into each of its dimensions, and what it is multiplied by."""

    tensor: str
    index: tuple[int, ...]
    factor: float


def write_edited(
    source: Path, destination: Path, tensors: Sequence[str], edits: Sequence[ScalarEdit]
) -> None:
    """Write ``destination``: ``source`` with ``tensors`` as float32 and ``edits`` done, whole or not at all.

    Every scalar is read back from the copy. Raises `EditFailed` where one of them is not what it was times
    its factor, `BadInput` where the copy cannot be written.
    """
    original = open_checkpoint(source)
    scratch = destination.with_name(f".{destination.name}.tmp")
    try:
        _write(original, source, scratch, frozenset(tensors), edits)
        scratch.replace(destination)
    except OSError as error:
        raise BadInput(
            f"cannot write an edited copy of {source.name} to {destination.parent}: "
            f"{error.strerror or error}; free some space or set XDG_CACHE_HOME to another directory"
        ) from error
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
    _prove(original, open_checkpoint(destination), tensors, edits)


def _prove(
    original: Checkpoint, copy: Checkpoint, tensors: Sequence[str], edits: Sequence[ScalarEdit]
) -> None:
    for name in tensors:
        if copy.info(name).dtype != FLOAT32:
            raise EditFailed(
                f"{name} is {copy.info(name).dtype} in the edited copy {copy.name}, not {FLOAT32}"
            )
    for edit in edits:
        was = np.float32(original.scalar(edit.tensor, *edit.index).value)
        wanted, found = was * np.float32(edit.factor), copy.scalar(edit.tensor, *edit.index).value
        if found != wanted:
            raise EditFailed(
                f"{edit.tensor}{list(edit.index)} is {found:g} in the edited copy, not {wanted:g}"
            )


def _write(
    original: Checkpoint,
    source: Path,
    scratch: Path,
    tensors: frozenset[str],
    edits: Sequence[ScalarEdit],
) -> None:
    file = LocalFile(source, source.stat().st_size)
    header, metadata = read_header(file)
    ordered = sorted(header.values(), key=lambda info: info.start)
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int):
        raise BadInput(f"{source}: general.alignment is {alignment!r}; it is corrupt")
    begin = ordered[0].start
    places = _places(ordered, tensors, begin, alignment)
    data = _with_places(file.read(0, begin), ordered, tensors, places, begin, source)
    with source.open("rb") as reading, scratch.open("xb") as writing:
        writing.write(data)
        shared = True
        for run in _runs(ordered, tensors):
            first, last = run[0], run[-1]
            writing.seek(places[first.name])
            if first.name in tensors:
                numbers = np.array(original.read(first.name), dtype=np.float32)
                for edit in edits:
                    if edit.tensor == first.name:
                        numbers[edit.index] *= np.float32(edit.factor)
                writing.write(numbers.tobytes())
            else:
                shared &= _transfer(reading, writing, first.start, places[first.name], last.end - first.start)
        writing.flush()
        writing.truncate(-(-writing.seek(0, os.SEEK_END) // alignment) * alignment)
    if not shared:
        _tell_of_room(source.name, source.stat().st_size)


@cache
def _tell_of_room(name: str, size: int) -> None:
    """Note, once a file, that its copies share nothing with it."""
    _log.warning(
        "an edited copy of %s takes %.0f MB while it is used: the file system of the cache shares no blocks",
        name,
        size / 1e6,
    )


def _places(
    ordered: Sequence[TensorInfo], tensors: frozenset[str], begin: int, alignment: int
) -> dict[str, int]:
    """Return where each tensor begins in the copy: one behind the other, as llama.cpp demands."""
    places, at = {}, begin
    for info in ordered:
        places[info.name] = at
        size = info.elements * 4 if info.name in tensors else info.end - info.start
        at += -(-size // alignment) * alignment
    return places


def _with_places(
    data: bytes,
    ordered: Sequence[TensorInfo],
    tensors: frozenset[str],
    places: Mapping[str, int],
    begin: int,
    source: Path,
) -> bytes:
    """Return a header with new types and places; both have a fixed width, so that its length stays."""
    from gguf import GGMLQuantizationType

    kinds = GGMLQuantizationType
    for info in ordered:
        kind = kinds[FLOAT32] if info.name in tensors else kinds[info.dtype]
        was = _entry(info, kinds[info.dtype], info.start - begin)
        if data.count(was) != 1:
            raise BadInput(f"{source}: the entry of {info.name!r} in its header is not to be found")
        data = data.replace(was, _entry(info, kind, places[info.name] - begin))
    return data


def _entry(info: TensorInfo, kind: int, offset: int) -> bytes:
    """Return what a GGUF header says of a tensor."""
    name, shape = info.name.encode(), info.shape[::-1]
    numbers = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return struct.pack("<Q", len(name)) + name + numbers


def _runs(ordered: Sequence[TensorInfo], tensors: frozenset[str]) -> Iterator[list[TensorInfo]]:
    """Cut tensors into those that are rewritten, each alone, and runs of those that stay as they are."""
    run: list[TensorInfo] = []
    for info in ordered:
        if info.name in tensors:
            if run:
                yield run
            yield [info]
            run = []
        else:
            run.append(info)
    if run:
        yield run


def _transfer(reading: BinaryIO, writing: BinaryIO, start: int, place: int, length: int) -> bool:
    """Bring a run of bytes into the copy; tell whether all but its ends is shared with the original."""
    writing.flush()
    if (start - place) % _BLOCK == 0:
        head = min(-start % _BLOCK, length)
        middle = (length - head) // _BLOCK * _BLOCK
        if _shared(reading, writing, start + head, place + head, middle):
            _copied(reading, writing, start, place, head)
            _copied(reading, writing, start + head + middle, place + head + middle, length - head - middle)
            return True
    _copied(reading, writing, start, place, length)
    return False


def _shared(reading: BinaryIO, writing: BinaryIO, start: int, place: int, length: int) -> bool:
    try:
        # Not on every system.
        from fcntl import ioctl
    except ImportError:
        return False
    if length == 0:
        return True
    try:
        ioctl(writing.fileno(), _FICLONERANGE, struct.pack("<qQQQ", reading.fileno(), start, length, place))
    except OSError:  # another file system, or one that cannot
        return False
    return True


def _copied(reading: BinaryIO, writing: BinaryIO, start: int, place: int, length: int) -> None:
    reading.seek(start)
    writing.seek(place)
    while length > 0:
        piece = reading.read(min(length, _PIECE))
        if not piece:
            raise OSError(f"it ended {length} bytes early while it was read")
        writing.write(piece)
        length -= len(piece)
    writing.flush()
