"""torchao: the parts of its tensor classes, written as safetensors with the class in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from superweight.checkpoints.forms.form import (
    Codes,
    Form,
    Packed,
    Source,
    along,
    e2m1,
    e2m1_gap,
    evenly,
    misfit,
    unread,
)
from superweight.checkpoints.tensors.decoding import FLOAT8, Floats, float8_step

_PLAIN = ("Int8Tensor", "IntxUnpackedToInt8Tensor", "Float8Tensor")
_BLOCKS = ("MXTensor", "NVFP4Tensor")
# What MXTensor calls the elements that are read; those of 6 bits are not.
_ELEMENTS = ("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn_x2")
# The tiles of scales as tensor cores read them: 128 rows of 4 scales, 32 rows of 16 in the file.
_TILE_ROWS, _TILE_COLS, _TILE_STORED = 128, 4, 32


def _holds(source: Source, stem: str) -> bool:
    return any(f"{stem}._weight_{part}" in source.files for part in ("scale", "scale_and_zero"))


def _document(source: Source, stem: str) -> Mapping[str, object]:
    """Return what the file's metadata says of a weight: its class and that one's settings, or nothing."""
    file = source.info(f"{stem}._weight_qdata").file
    header = json.loads(file.read(8, 8 + int.from_bytes(file.read(0, 8), "little")))
    try:
        document = json.loads(header["__metadata__"][f"{stem}.weight"])
    except (KeyError, TypeError, ValueError):
        return {}
    return document if isinstance(document, Mapping) else {}


def _unpack(source: Source, stem: str) -> Packed:
    document = _document(source, stem)
    kind, settings = str(document.get("_type", "")), document.get("_data")
    if kind in _PLAIN:
        return _blocked_evenly(source, stem, kind)
    if kind in _BLOCKS and isinstance(settings, Mapping):
        return _micro_scaled(source, stem, kind, settings)
    what = f"torchao {kind}" if kind else "torchao without its metadata"
    instead = "give its int8, float8, MX, NVFP4 or intx release, or the unquantised one"
    raise unread(f"{stem}._weight_qdata", what, instead)


def _micro_scaled(source: Source, stem: str, kind: str, settings: Mapping[str, object]) -> Packed:
    """Read floats of 8 or 4 bits with a scale for each group of inputs (MX, NVFP4)."""
    name, scale, whole = (f"{stem}._weight_{part}" for part in ("qdata", "scale", "per_tensor_scale"))
    info, group = source.info(name), settings.get("block_size")
    element = settings.get("elem_dtype")
    element = str(element.get("_data") if isinstance(element, Mapping) else element)
    if kind == "MXTensor" and element not in _ELEMENTS:
        raise unread(name, f"torchao MX with elements {element}", "give its 8- or 4-bit release")
    two = info.dtype in ("U8", "F4")
    if len(info.shape) != 2 or type(group) is not int or not (two or info.dtype in FLOAT8):
        raise misfit(source, name, "torchao")
    shape = (info.shape[0], info.shape[1] * 2 if info.dtype == "U8" else info.shape[1])
    groups, odd = divmod(shape[1], group)
    swizzled = settings.get("is_swizzled_scales") is True
    held = source.info(scale)
    if odd or held.elements < shape[0] * groups or (not swizzled and held.elements > shape[0] * groups):
        raise misfit(source, scale, "torchao")

    def part(leading: tuple[int, ...], rows: slice, cols: slice) -> Codes:
        codes = source.stored(name, rows.start, upto=rows.stop)
        factors = source.stored(scale).reshape(-1)[_order(rows, groups, swizzled=swizzled)]
        if whole in source.files:
            factors = factors * np.float32(source.stored(whole).reshape(-1)[0])
        numbers = e2m1(codes) if info.dtype == "U8" else codes.astype(np.float32)
        gap = e2m1_gap if two else lambda code: float8_step(code, info.dtype)
        return Codes(numbers[:, cols], along(factors, cols, group), gap)

    called = kind.removesuffix("Tensor") + ("" if kind == "NVFP4Tensor" else "FP4" if two else "FP8")
    return Packed(f"torchao {called}", shape, part)


def _order(rows: slice, groups: int, *, swizzled: bool) -> npt.NDArray[np.intp]:
    """Return where the scales of some rows lie in the file: (rows, groups)."""
    row, col = np.meshgrid(np.arange(rows.start, rows.stop), np.arange(groups), indexing="ij")
    if not swizzled:
        return np.asarray(row * groups + col)
    tile = row // _TILE_ROWS * -(-groups // _TILE_COLS) + col // _TILE_COLS
    within = row % _TILE_ROWS
    line = within % _TILE_STORED * (_TILE_ROWS // _TILE_STORED) + within // _TILE_STORED
    return np.asarray((tile * _TILE_ROWS + line) * _TILE_COLS + col % _TILE_COLS)


def _blocked_evenly(source: Source, stem: str, kind: str) -> Packed:
    """Read integers or floats of 8 bits with a scale, and a zero point, for each block of the matrix."""
    name, scale, zero = (f"{stem}._weight_{part}" for part in ("qdata", "scale", "zero_point"))
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
    made_by="torchao through transformers: Int8Tensor, IntxUnpackedToInt8Tensor, Float8Tensor, MXTensor "
    "(fp8, fp4), NVFP4Tensor",
    layout="(qdata - zero_point) scale by block, in tensors called _weight_qdata, _weight_scale, ...; MX and "
    "NVFP4: qdata scale (per_tensor_scale) by group of inputs, scales in rows or in tiles of 128 by 4",
    suffixes=("._weight_qdata",),
    holds=_holds,
    unpack=_unpack,
    checked_against="torchao's own flatten_tensor_state_dict and dequantize",
)
