"""Read the header of a GGUF file.

The reader of the gguf package turns every token of the vocabulary into arrays, which takes seconds;
here the vocabulary is passed over, and only the bytes of the header are touched.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

from superweight.checkpoints.tensors.files import File
from superweight.checkpoints.tensors.tensor_info import Header, TensorInfo, refuse_overlaps, refuse_truncation
from superweight.core.errors import BadInput, BrokenModel

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_CHUNK = 2**20
_DEFAULT_ALIGNMENT = 32
_MOST_DIMENSIONS = 4
# By the format's numbers of value types; 8 is a string and 9 an array.
_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# The shortest entry: a name's length, a type, and next to nothing.
_SHORTEST_ENTRY = 13

Metadata = Mapping[str, object]


class _Cursor:
    """A place in a file's header that moves on as values are taken, bringing bytes as needed."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._bytes = b""
        self.offset = 0

    def take(self, count: int) -> bytes:
        end = self.offset + count
        self._reach(end)
        data = self._bytes[self.offset : end]
        self.offset = end
        return data

    def number(self, code: str) -> int:
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))
        return int(value)

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8")

    def pass_strings(self, count: int) -> None:
        # A loop over half a million tokens: locals instead of attributes and calls.
        data, offset = self._bytes, self.offset
        for _ in range(count):
            if offset + 8 > len(data):
                self._reach(offset + 8)
                data = self._bytes
            offset += 8 + int.from_bytes(data[offset : offset + 8], "little")
        # An offset beyond the file's end is noticed when the next value is taken from there.
        self.offset = offset

    def _reach(self, end: int) -> None:
        if end <= len(self._bytes):
            return
        if end > self._file.size:
            raise BrokenModel(
                f"{self._file.name} ends within its GGUF header; it is truncated, so fetch it again"
            )
        upto = min(self._file.size, max(end, len(self._bytes) + _CHUNK))
        self._bytes += self._file.read(len(self._bytes), upto)


def read_header(file: File) -> tuple[Header, Metadata]:
    """Read what tensors a GGUF file holds, and its metadata but for arrays.

    Raises `BadInput` naming the file and the fault: no magic, an unknown version, value type or
    quantisation type, a name given twice, tensors that overlap or lie outside the file.
    """
    cursor = _Cursor(file)
    if file.size < 4 or cursor.take(4) != MAGIC:
        raise BrokenModel(
            f"{file.name} does not begin with the GGUF magic; it is truncated or something else"
        )
    version = cursor.number("I")
    if version not in _VERSIONS:
        raise BadInput(f"{file.name} is GGUF of version {version}; only 2 and 3, little-endian, are read")
    tensors, values = cursor.number("Q"), cursor.number("Q")
    if (tensors + values) * _SHORTEST_ENTRY > file.size:
        raise BrokenModel(
            f"{file.name} claims {tensors} tensors and {values} values, more than fit; it is corrupt"
        )
    try:
        metadata = _metadata(cursor, values, file)
        return _tensors(cursor, tensors, _alignment(metadata, file), file), metadata
    except UnicodeDecodeError as error:
        raise BrokenModel(f"{file.name}: a name in its header is no UTF-8; it is corrupt") from error


def _metadata(cursor: _Cursor, count: int, file: File) -> dict[str, object]:
    metadata: dict[str, object] = {}
    for _ in range(count):
        name, kind = cursor.text(), cursor.number("I")
        if name in metadata:
            raise BrokenModel(f"{file.name}: metadata {name!r} occurs twice; the header is corrupt")
        metadata[name] = _value(cursor, kind, file)
    return metadata


def _value(cursor: _Cursor, kind: int, file: File) -> object:
    if kind == _STRING:
        return cursor.text()
    if kind in _SCALARS:
        code = _SCALARS[kind]
        value: object = struct.unpack("<" + code, cursor.take(struct.calcsize("<" + code)))[0]
        return value
    if kind != _ARRAY:
        raise BrokenModel(f"{file.name}: its header has a value of unknown type {kind}; it is corrupt")
    item, count = cursor.number("I"), cursor.number("Q")
    if item == _STRING:
        cursor.pass_strings(count)
    elif item in _SCALARS:
        cursor.take(count * struct.calcsize("<" + _SCALARS[item]))
    else:
        raise BadInput(f"{file.name}: its header has an array of type {item}, which is not read")
    return None


def _alignment(metadata: Metadata, file: File) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise BrokenModel(f"{file.name}: general.alignment is {alignment!r}, no power of two; it is corrupt")
    return alignment


def _tensors(cursor: _Cursor, count: int, alignment: int, file: File) -> Header:
    entries = {}
    for _ in range(count):
        name = cursor.text()
        dimensions = cursor.number("I")
        if name in entries or dimensions > _MOST_DIMENSIONS:
            raise BrokenModel(
                f"{file.name}: tensor {name!r} is listed twice or misshapen; the header is corrupt"
            )
        # GGUF names the fastest-running dimension first.
        shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
        entries[name] = shape, cursor.number("I"), cursor.number("Q")
    begin = -(-cursor.offset // alignment) * alignment
    header = {name: _entry(file, name, *entry, begin) for name, entry in entries.items()}
    refuse_overlaps(header, file)
    refuse_truncation(header, file)
    return header


def _entry(file: File, name: str, shape: tuple[int, ...], kind: int, offset: int, begin: int) -> TensorInfo:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        dtype = GGMLQuantizationType(kind)
    except ValueError:
        # A newer type, or a corrupt header: which of the two cannot be told.
        raise BadInput(
            f"{file.name}: tensor {name!r} has the unknown type {kind}; update gguf or fetch the file again"
        ) from None
    elements, size = GGML_QUANT_SIZES[dtype]
    if (shape[-1] if shape else 1) % elements:
        raise BrokenModel(
            f"{file.name}: tensor {name!r} of shape {list(shape)} does not divide into the blocks of "
            f"{elements} that {dtype.name} has; the header is corrupt"
        )
    start = begin + offset
    return TensorInfo(
        name, dtype.name, shape, file, start, start + math.prod(shape) // elements * size, elements, size
    )
