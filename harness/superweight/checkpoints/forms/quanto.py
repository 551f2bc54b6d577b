"""optimum-quanto: 8 bits beside a scale, and 2 or 4 bits packed by rows of groups with scale and shift."""

from __future__ import annotations

import numpy as np

from superweight.checkpoints.forms.form import Codes, Form, Packed, Source, evenly, misfit
from superweight.checkpoints.tensors.decoding import FLOAT8, float8_step

_HIDDEN_SIZES = ("hidden_size", "n_embd", "d_model")


def _holds(source: Source, stem: str) -> bool:
    return f"{stem}.weight._scale" in source.files


def _unpack(source: Source, stem: str) -> Packed:
    if f"{stem}.weight._data._data" in source.files:
        return _packed(source, stem)
    name, scale = f"{stem}.weight._data", f"{stem}.weight._scale"
    info = source.info(name)
    counts = source.info(scale).shape
    if len(info.shape) != 2 or counts not in ((), (1,), (1, 1), (info.shape[0], 1)):
        raise misfit(source, name, "quanto")

    def gap(code: float) -> float:
        return float8_step(code, info.dtype) if info.dtype in FLOAT8 else 1.0

    def part(leading: tuple[int, ...], rows: slice, cols: slice) -> Codes:
        codes = source.stored(name, rows.start, upto=rows.stop)[:, cols].astype(np.float32)
        factors = source.stored(scale).reshape(-1, 1).astype(np.float32)
        chosen = factors if len(factors) == 1 else factors[rows]
        return Codes(codes, np.broadcast_to(chosen, codes.shape), gap)

    kind = "float8" if info.dtype in FLOAT8 else "int8"
    return Packed(f"quanto {kind}", info.shape, part)


def _packed(source: Source, stem: str) -> Packed:
    name, scale = f"{stem}.weight._data._data", f"{stem}.weight._scale"
    held, counts = source.info(name).shape, source.info(scale).shape
    # One row a group, and one scale a row; two or four rows share a row of bytes.
    if len(held) != 2 or len(counts) != 2 or counts[1] != 1 or not held[0]:
        raise misfit(source, name, "quanto (along the last axis)")
    each = -(-counts[0] // held[0])
    outputs = _outputs(source, stem, counts[0])
    if each not in (2, 4):
        raise misfit(source, name, "quanto")
    bits, inputs = 8 // each, counts[0] // outputs * held[1]

    def part(leading: tuple[int, ...], rows: slice, cols: slice) -> Codes:
        at = np.arange(rows.start, rows.stop)[:, None] * inputs + np.arange(cols.start, cols.stop)
        group, within = np.divmod(at, held[1])
        packed = source.stored(name)
        shift = group // held[0] * bits
        codes = (packed[group % held[0], within] >> shift & (1 << bits) - 1).astype(np.float32)
        factors = source.stored(scale).reshape(-1)[group].astype(np.float32)
        stored_shift = source.stored(f"{stem}.weight._shift").reshape(-1)[group]
        if np.issubdtype(stored_shift.dtype, np.integer):  # a zero point
            return Codes(codes - stored_shift.astype(np.float32), factors, evenly)
        return Codes(codes, factors, evenly, -stored_shift.astype(np.float32))

    return Packed(f"quanto int{bits}", (outputs, inputs), part, flat=True)


def _outputs(source: Source, stem: str, groups: int) -> int:
    """Return how many outputs a matrix has, which its groups do not tell: the model's hidden size.

    Where that makes no whole rows, a row is taken to be a group.
    """
    config = source.config.get("text_config")
    config = config if isinstance(config, dict) else source.config
    size = next((config[key] for key in _HIDDEN_SIZES if isinstance(config.get(key), int)), None)
    return size if isinstance(size, int) and size > 0 and groups % size == 0 else groups


FORM = Form(
    name="optimum-quanto",
    made_by="optimum-quanto: qint8, qfloat8, qint4, qint2",
    layout="q scale (8 bits); q scale - shift by group, the first half of the groups in the lower bits",
    suffixes=(".weight._data._data", ".weight._data"),
    holds=_holds,
    unpack=_unpack,
    checked_against="optimum-quanto's own dequantize where it is installed; else the layout in torch",
)
