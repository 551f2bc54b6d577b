"""torchao: the parts of its tensor classes, written as safetensors with the class in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from superweight.checkpoints.forms.form import Codes, Form, Packed, Source, evenly, misfit, unread
from superweight.checkpoints.tensors.decoding import FLOAT8, Floats, float8_step

_READ = ("Int8Tensor", "IntxUnpackedToInt8Tensor", "Float8Tensor")


def _holds(source: Source, stem: str) -> bool:
    return f"{stem}._weight_scale" in source.files


def _class(source: Source, stem: str) -> str:
    """Return the class that the file's metadata names for a weight, empty where it names none."""
    file = source.info(f"{stem}._weight_qdata").file
    header = json.loads(file.read(8, 8 + int.from_bytes(file.read(0, 8), "little")))
    try:
        document = json.loads(header["__metadata__"][f"{stem}.weight"])
    except (KeyError, TypeError, ValueError):
        return ""
    return str(document.get("_type", "")) if isinstance(document, Mapping) else ""


def _unpack(source: Source, stem: str) -> Packed:
    name, scale, zero = (f"{stem}._weight_{part}" for part in ("qdata", "scale", "zero_point"))
    kind = _class(source, stem)
    if kind not in _READ:
        what = f"torchao {kind}" if kind else "torchao without its metadata"
        raise unread(name, what, "give its int8, float8 or intx release, or the unquantised one")
    info = source.info(name)
    counts = source.info(scale).shape
    shape = info.shape
    if len(shape) != 2 or len(counts) > 2:
        raise misfit(source, name, "torchao")
    counts = (1,) * (2 - len(counts)) + counts
    if any(not count or length % count for count, length in zip(counts, shape, strict=True)):
        raise misfit(source, scale, "torchao")
    blocks = tuple(length // count for count, length in zip(counts, shape, strict=True))

    def spread(values: Floats, rows: slice, cols: slice) -> Floats:
        down = np.arange(rows.start, rows.stop) // blocks[0]
        across = np.arange(cols.start, cols.stop) // blocks[1]
        return np.asarray(values.reshape(counts)[np.ix_(down, across)], dtype=np.float32)

    def gap(code: float) -> float:
        return float8_step(code, info.dtype) if info.dtype in FLOAT8 else evenly(code)

    def part(leading: tuple[int, ...], rows: slice, cols: slice) -> Codes:
        codes = source.stored(name, rows.start, upto=rows.stop)[:, cols].astype(np.float32)
        if zero in source.files:
            codes = codes - spread(source.stored(zero), rows, cols)
        return Codes(codes, spread(source.stored(scale), rows, cols), gap)

    return Packed(f"torchao {kind.removesuffix('Tensor')}", shape, part)


FORM = Form(
    name="torchao",
    made_by="torchao through transformers: Int8Tensor, IntxUnpackedToInt8Tensor, Float8Tensor",
    layout="(qdata - zero_point) scale by block, in tensors called _weight_qdata, _weight_scale, ...",
    suffixes=("._weight_qdata",),
    holds=_holds,
    unpack=_unpack,
    checked_against="torchao's own flatten_tensor_state_dict and dequantize",
)
