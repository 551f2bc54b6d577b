"""Read the header of a safetensors file, and refuse one that contradicts itself or the file."""

from __future__ import annotations

import json
import math
from typing import Any, TypeGuard

from superweight.checkpoints.tensors.files import File
from superweight.checkpoints.tensors.tensor_info import Header, TensorInfo, refuse_overlaps, refuse_truncation
from superweight.core.errors import BadInput, BrokenModel

# The format's own limit; a length beyond it is no header.
_LONGEST_HEADER = 100_000_000
_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}


def read_header(file: File) -> Header:
    """Read what tensors a safetensors file holds.

    Raises `BadInput` naming the file and the fault: too short, a header that is too long or no
    JSON, unknown dtypes, shapes and offsets that do not match, overlaps and holes, or a file that
    is longer or shorter than its header says.
    """
    if file.size < 8:
        raise BrokenModel(
            f"{file.name} has {file.size} bytes, too few for a safetensors file; fetch it again"
        )
    length = int.from_bytes(file.read(0, 8), "little")
    if length > _LONGEST_HEADER:
        raise BrokenModel(f"{file.name} claims a header of {length} bytes; it is no safetensors file")
    begin = 8 + length
    table = _parse(file, file.read(8, begin))
    header = {name: _entry(file, name, entry, begin) for name, entry in table.items()}
    refuse_overlaps(header, file)
    refuse_truncation(header, file)
    held = sum(info.end - info.start for info in header.values())
    # Without overlaps, a sum that differs from the file's length means bytes that nobody owns.
    if begin + held != file.size:
        raise BrokenModel(
            f"{file.name} has {file.size} bytes, but its header accounts for {begin + held}; it is corrupt"
        )
    return header


def _parse(file: File, text: bytes) -> dict[str, Any]:
    try:
        table = json.loads(text, object_pairs_hook=_distinct)
    # A header nested deeply enough exhausts the parser's stack.
    except (ValueError, RecursionError) as error:
        raise BrokenModel(f"{file.name}: its header is no valid JSON ({error}); it is corrupt") from error
    if not isinstance(table, dict):
        raise BrokenModel(f"{file.name}: its header is no JSON object; it is no safetensors file")
    table.pop("__metadata__", None)
    return table


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _entry(file: File, name: str, entry: object, begin: int) -> TensorInfo:
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    place = f"{file.name}: tensor {name!r}"
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise BadInput(f"{place} has the unknown dtype {dtype!r}; update the harness or fetch the file again")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise BrokenModel(f"{place} has the shape {shape!r} at {offsets!r}; the header is corrupt")
    start, end = offsets
    if math.prod(shape) * _BITS[dtype] != 8 * (end - start):
        raise BrokenModel(
            f"{place} is {dtype} of shape {shape}, but has {end - start} bytes; the header is corrupt"
        )
    if dtype == "F4":
        return TensorInfo(name, dtype, tuple(shape), file, begin + start, begin + end, 2, 1)
    # Types of six bits are listed, and refused when they are read.
    size = _BITS[dtype] // 8
    return TensorInfo(name, dtype, tuple(shape), file, begin + start, begin + end, 1, size)


def _counts(value: object) -> TypeGuard[list[int]]:
    # A bool is an int to isinstance, and none here. Beyond 64 bits Python counts on, until a sum has
    # more digits than it writes.
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)
