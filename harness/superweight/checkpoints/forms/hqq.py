"""HQQ: codes packed along the first axis of the groups, the first half in the higher bits."""

from __future__ import annotations

import numpy as np

from superweight.checkpoints.forms.form import (
    Codes,
    Form,
    Packed,
    Source,
    Stored,
    evenly,
    misfit,
    unread,
)
from superweight.checkpoints.tensors.decoding import Floats

# By the number of bits, how many codes share a stored number; ten of 3 bits share a word.
_TOGETHER = {8: 1, 4: 2, 3: 10, 2: 4, 1: 8}


def _holds(source: Source, stem: str) -> bool:
    return all(f"{stem}.{name}" in source.files for name in ("scale", "zero", "shape", "nbits"))


def _unpack(source: Source, stem: str) -> Packed:
    name = f"{stem}.W_q"
    bits = int(source.stored(f"{stem}.nbits").reshape(-1)[0])
    axis = int(source.stored(f"{stem}.axis").reshape(-1)[0]) if f"{stem}.axis" in source.files else 1
    stored_as = ("I32", "U32") if bits == 3 else ("U8",)
    if bits not in _TOGETHER or source.info(name).dtype not in stored_as:
        raise unread(name, f"HQQ of {bits} bits", "give the checkpoint it was made from, or a GGUF file")
    shape = tuple(int(length) for length in source.stored(f"{stem}.shape"))
    held, scales = source.info(name).shape, source.info(f"{stem}.scale").shape
    if len(held) != 2 or len(shape) != 2 or not held[1] or shape[0] * shape[1] % held[1]:
        raise misfit(source, name, "HQQ")
    # What does not fill the last stored number is padded.
    rows = shape[0] * shape[1] // held[1]
    if -(-rows // _TOGETHER[bits]) != held[0] or scales != ((rows, 1) if axis == 1 else (1, held[1])):
        raise misfit(source, name, "HQQ")

    def part(leading: tuple[int, ...], rows: slice, cols: slice) -> Codes:
        at = np.arange(rows.start, rows.stop)[:, None] * shape[1] + np.arange(cols.start, cols.stop)
        place, within = np.divmod(at, held[1])
        factor = place if axis == 1 else within
        codes = _code(source.stored(name), place, within, bits)
        zeros = source.stored(f"{stem}.zero").reshape(-1)[factor].astype(np.float32)
        scale = source.stored(f"{stem}.scale").reshape(-1)[factor].astype(np.float32)
        return Codes(codes - zeros, scale, evenly)

    return Packed(f"HQQ int{bits}", shape, part)


def _code(packed: Stored, place: Stored, within: Stored, bits: int) -> Floats:
    """Return codes by their row and column in the groups: the first rows lie in the highest bits."""
    each, rows = _TOGETHER[bits], len(packed)
    shift = (each - 1 - place // rows) * bits
    return np.asarray(packed[place % rows, within] >> shift & (1 << bits) - 1, dtype=np.float32)


FORM = Form(
    name="HQQ",
    made_by="hqq: 1, 2, 3, 4 and 8 bits, axis 0 or 1",
    layout="(q - zero) scale by group; rows of groups packed so that the first half lies in the higher bits",
    suffixes=(".W_q",),
    holds=_holds,
    unpack=_unpack,
    checked_against="hqq's own quantizer on the CPU; and the layout written out in torch",
)
