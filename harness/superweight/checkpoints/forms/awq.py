"""AWQ: codes packed along the outputs, eight to a word in the order 0 2 4 6 1 3 5 7."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from superweight.checkpoints.forms.form import (
    Codes,
    Form,
    Packed,
    Source,
    Stored,
    evenly,
    misfit,
    unpacked,
    unread,
)
from superweight.checkpoints.tensors.config_groups import quantisation

# At which place of its word the kernel's order puts each of eight outputs.
_PLACE = np.array([0, 4, 1, 5, 2, 6, 3, 7])
_OTHER_KERNELS = ("gemv", "gemv_fast", "marlin")


def _holds(source: Source, stem: str) -> bool:
    names = (f"{stem}.scales", f"{stem}.qzeros")
    return all(name in source.files for name in names) and f"{stem}.g_idx" not in source.files


def _unpack(source: Source, stem: str) -> Packed:
    version = str(quantisation(source.config).get("version", "gemm")).lower()
    if version in _OTHER_KERNELS:
        raise unread(f"{stem}.qweight", f"AWQ {version}", "give its gemm release, or the unquantised one")
    words, scales, zeros = (source.info(f"{stem}.{name}").shape for name in ("qweight", "scales", "qzeros"))
    if not len(words) == len(scales) == len(zeros) == 2 or not scales[0] or words[1] * 8 != scales[1]:
        raise misfit(source, f"{stem}.qweight", "AWQ")
    if zeros != (scales[0], words[1]) or words[0] % scales[0]:
        raise misfit(source, f"{stem}.qzeros", "AWQ")
    inputs, outputs, group = words[0], scales[1], words[0] // scales[0]

    def part(leading: tuple[int, ...], rows: slice, cols: slice) -> Codes:
        first, last = cols.start // group, -(-cols.stop // group)
        at = np.arange(cols.start, cols.stop) // group - first
        codes = _in_order(source.stored(f"{stem}.qweight", cols.start, upto=cols.stop), rows)
        zero_points = _in_order(source.stored(f"{stem}.qzeros", first, upto=last), rows)
        held = source.stored(f"{stem}.scales", first, upto=last)[:, rows].astype(np.float32)
        return Codes((codes - zero_points[at]).T, held[at].T, evenly)

    return Packed("AWQ int4", (outputs, inputs), part)


def _in_order(words: Stored, rows: slice) -> npt.NDArray[np.float32]:
    begin, end = rows.start // 8, -(-rows.stop // 8)
    codes = unpacked(words[:, begin:end], 4)
    outputs = np.arange(rows.start, rows.stop)
    return codes[:, outputs // 8 * 8 - begin * 8 + _PLACE[outputs % 8]].astype(np.float32)


FORM = Form(
    name="AWQ",
    made_by="AutoAWQ (gemm), AutoRound, llm-awq converted by transformers",
    layout="scales (q - z) by group of inputs; q and z packed along the outputs, order 0 2 4 6 1 3 5 7",
    suffixes=(".qweight",),
    holds=_holds,
    unpack=_unpack,
    checked_against="AutoRound's own packing and dequantize_gemm, which are AutoAWQ's, on the CPU; and the "
    "layout written out",
)
