"""compressed-tensors: integers packed into 32-bit words, and 4-bit floats with scales of 16 or 32 inputs."""

from __future__ import annotations

import numpy as np

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
    unpacked,
)
from superweight.checkpoints.tensors.config_groups import weight_settings
from superweight.checkpoints.tensors.decoding import exponents

_WORD = 32


def _holds_integers(source: Source, stem: str) -> bool:
    info = source.info(f"{stem}.weight_packed")
    return info.dtype in ("I32", "U32") and f"{stem}.weight_scale" in source.files


def _unpack_integers(source: Source, stem: str) -> Packed:
    name = f"{stem}.weight_packed"
    words, scales = source.info(name).shape, source.info(f"{stem}.weight_scale").shape
    if len(words) not in (2, 3) or len(scales) != len(words) or not words[-1]:
        raise misfit(source, name, "compressed-tensors")
    outputs, inputs = words[-2], _inputs(source, stem)
    settings = weight_settings(source.config, f"{stem}.weight")
    told = settings[0].get("num_bits") if settings else None
    bits = told if type(told) is int else words[-1] * _WORD // inputs if inputs else 4
    inputs = inputs or words[-1] * _WORD // bits
    if not 1 <= bits <= 8 or -(-inputs * bits // _WORD) != words[-1] or scales[-2] not in (1, outputs):
        raise misfit(source, name, f"compressed-tensors int{bits}")
    group = -(-inputs // max(scales[-1], 1))
    zeros = f"{stem}.weight_zero_point"
    order = f"{stem}.weight_g_idx" if f"{stem}.weight_g_idx" in source.files else None
    middle = 1 << bits - 1

    def part(leading: tuple[int, ...], rows: slice, cols: slice) -> Codes:
        words_of = source.stored(name, *leading, rows.start, upto=rows.stop)
        codes = unpacked(words_of, bits)[:, cols].astype(np.float32) - middle
        by_row = rows if scales[-2] == outputs else slice(0, 1)
        factors = source.stored(f"{stem}.weight_scale", *leading, by_row.start, upto=by_row.stop)
        at = np.arange(cols.start, cols.stop) // group
        if order is not None:
            at = source.stored(order, cols.start, upto=cols.stop).astype(np.intp)
            at = np.where(at < 0, np.arange(cols.start, cols.stop) // group, at)
        if zeros in source.files:
            held = source.stored(zeros, *leading)
            if held.shape[0] == outputs or source.info(zeros).dtype == "I8":
                points = held.reshape(-1, scales[-1])[by_row].astype(np.float32)
            else:  # packed along the outputs
                points = (unpacked(held.T, bits).T[:outputs].astype(np.float32) - middle)[by_row]
            codes = codes - points[:, at]
        return Codes(codes, factors[:, at].astype(np.float32), evenly)

    return Packed(f"compressed-tensors int{bits}", (*words[:-2], outputs, inputs), part)


def _inputs(source: Source, stem: str) -> int:
    """Return how many inputs the matrix has by the shape stored beside it, 0 where there is none."""
    name = f"{stem}.weight_shape"
    return int(source.stored(name)[-1]) if name in source.files else 0


def _holds_floats(source: Source, stem: str) -> bool:
    info = source.info(f"{stem}.weight_packed")
    return info.dtype == "U8" and f"{stem}.weight_scale" in source.files


def _unpack_floats(source: Source, stem: str) -> Packed:
    return float4(
        source, f"{stem}.weight_packed", f"{stem}.weight_scale", divided_by=f"{stem}.weight_global_scale"
    )


def float4(
    source: Source, name: str, scale: str, *, divided_by: str | None = None, times: str | None = None
) -> Packed:
    """Return a matrix of 4-bit floats, two a byte, with a scale for each group of inputs.

    A scale stored as a byte is an exponent (MXFP4), else it is a number (NVFP4), which the whole
    matrix's own scale is multiplied with, or divides.
    """
    shape, scales = source.info(name).shape, source.info(scale)
    if len(shape) not in (2, 3) or scales.shape[:-1] != shape[:-1] or not scales.shape[-1]:
        raise misfit(source, scale, "4-bit floats")
    inputs = shape[-1] * 2
    group, odd = divmod(inputs, scales.shape[-1])
    if odd or group not in (16, 32):
        raise misfit(source, scale, "4-bit floats")
    micro = scales.dtype in ("U8", "F8_E8M0")

    def part(leading: tuple[int, ...], rows: slice, cols: slice) -> Codes:
        packed = source.stored(name, *leading, rows.start, upto=rows.stop)
        factors = source.stored(scale, *leading, rows.start, upto=rows.stop)
        if scales.dtype == "U8":
            factors = exponents(factors.astype(np.float32))
        if times is not None and times in source.files:
            factors = factors * _whole(source, times, leading)
        if divided_by is not None and divided_by in source.files:
            factors = factors / _whole(source, divided_by, leading)
        return Codes(e2m1(packed)[:, cols], along(factors, cols, group), e2m1_gap)

    return Packed("MXFP4" if micro else "NVFP4", (*shape[:-1], inputs), part)


def _whole(source: Source, name: str, leading: tuple[int, ...]) -> np.float32:
    values = source.stored(name).reshape(-1)
    return np.float32(values[leading[0] if leading and len(values) > 1 else 0])


INTEGERS = Form(
    name="compressed-tensors, packed integers",
    made_by="llm-compressor: W4A16, W8A16, symmetric or not, by channel or group",
    layout="weight_scale (q - z), q stored plus half its range in a row of bits along the inputs; "
    "z likewise, along the outputs",
    suffixes=(".weight_packed",),
    holds=_holds_integers,
    unpack=_unpack_integers,
    checked_against="compressed_tensors' own compress and decompress (pack-quantized)",
)
FLOATS = Form(
    name="compressed-tensors, 4-bit floats",
    made_by="llm-compressor: nvfp4-pack-quantized, mxfp4-pack-quantized",
    layout="e2m1 weight_scale / weight_global_scale by 16 inputs (NVFP4); e2m1 2^(u8 - 127) by 32 (MXFP4)",
    suffixes=(".weight_packed",),
    holds=_holds_floats,
    unpack=_unpack_floats,
    checked_against="compressed_tensors' own compress and decompress (nvfp4, mxfp4)",
)
