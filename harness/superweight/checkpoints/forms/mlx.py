"""MLX: codes in a row of bits along the inputs, a scale and a bias for each group."""

from __future__ import annotations

from collections.abc import Mapping

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
    setting,
    unpacked,
    unread,
)
from superweight.checkpoints.tensors.decoding import decode, exponents, float8_step

_WORD = 32
# By mode, how many inputs share a scale where config.json does not say.
_GROUPS = {"affine": 64, "mxfp4": 32, "mxfp8": 32, "nvfp4": 16}


def _holds(source: Source, stem: str) -> bool:
    return source.info(f"{stem}.weight").dtype == "U32" and f"{stem}.scales" in source.files


def _settings(source: Source, stem: str) -> Mapping[str, object]:
    """Return what config.json says of a module: in its own entry, else in that of all."""
    for key in ("quantization", "quantization_config"):
        general = source.config.get(key)
        if isinstance(general, dict):
            own = general.get(stem)
            return {**general, **own} if isinstance(own, dict) else general
    return {}


def _unpack(source: Source, stem: str) -> Packed:
    name, scales, biases = f"{stem}.weight", f"{stem}.scales", f"{stem}.biases"
    settings = _settings(source, stem)
    mode = str(settings.get("mode", "affine"))
    if mode not in _GROUPS:
        raise unread(name, f"MLX {mode}", "give its affine release, or the one it was made from")
    affine = mode == "affine"
    shape, groups = source.info(name).shape, source.info(scales).shape
    group = setting(settings, "group_size", _GROUPS[mode])
    inputs = groups[-1] * group
    bits = shape[-1] * _WORD // inputs if inputs else 0
    fits = groups[:-1] == shape[:-1] and len(shape) in (2, 3) and bits * inputs == shape[-1] * _WORD
    if not fits or not 2 <= bits <= 8 or (affine and biases not in source.files):
        raise misfit(source, name, "MLX")

    def part(leading: tuple[int, ...], rows: slice, cols: slice) -> Codes:
        words = source.stored(name, *leading, rows.start, upto=rows.stop)
        factors = source.stored(scales, *leading, rows.start, upto=rows.stop)
        if affine:
            offsets = along(source.stored(biases, *leading, rows.start, upto=rows.stop), cols, group)
            codes = unpacked(words, bits)[:, cols].astype(np.float32)
            return Codes(codes, along(factors, cols, group), evenly, offsets)
        if mode.startswith("mx"):
            factors = exponents(factors)
        elif factors.dtype == np.uint8:
            factors = decode(factors.tobytes(), "F8_E4M3").reshape(factors.shape)
        if mode == "mxfp8":
            numbers = decode(words.tobytes(), "F8_E4M3").reshape(len(words), -1)[:, cols]
            return Codes(numbers, along(factors, cols, group), lambda code: float8_step(code, "F8_E4M3"))
        return Codes(e2m1(words)[:, cols], along(factors, cols, group), e2m1_gap)

    kind = f"MLX int{bits}" if affine else f"MLX {mode}"
    return Packed(kind, (*shape[:-1], inputs), part)


FORM = Form(
    name="MLX",
    made_by="mlx-lm: 2 to 8 bits, mxfp4, mxfp8 and nvfp4, with the old config (quantization) and the new "
    "(quantization_config)",
    layout="q scales + biases by group of inputs, q in a row of bits along the inputs; floats without biases",
    suffixes=(".weight",),
    holds=_holds,
    unpack=_unpack,
    checked_against="mlx.core.quantize and mlx.core.dequantize on the CPU; and the layout written out",
)
