"""GPTQ: codes packed along the inputs, zero points along the outputs and, in version 1, less one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from superweight.checkpoints.forms.form import Codes, Form, Packed, Source, evenly, misfit, unpacked
from superweight.checkpoints.tensors.config_groups import quantisation

_WORD = 32


def _holds(source: Source, stem: str) -> bool:
    if f"{stem}.scales" not in source.files or f"{stem}.qzeros" not in source.files:
        return False
    if f"{stem}.g_idx" in source.files:
        return True
    # One word holds several inputs, so that there are as many columns as outputs; AWQ is the other way.
    return source.info(f"{stem}.qweight").shape[-1] == source.info(f"{stem}.scales").shape[-1]


def _unpack(source: Source, stem: str) -> Packed:
    words, scales, zeros = (source.info(f"{stem}.{name}").shape for name in ("qweight", "scales", "qzeros"))
    if not len(words) == len(scales) == len(zeros) == 2 or words[1] != scales[1] or not scales[1]:
        raise misfit(source, f"{stem}.qweight", "GPTQ")
    outputs, groups = scales[1], scales[0]
    bits, odd = divmod(zeros[1] * _WORD, outputs)
    if odd or not 2 <= bits <= 8 or zeros[0] != groups or words[0] * _WORD % bits:
        raise misfit(source, f"{stem}.qzeros", "GPTQ")
    inputs = words[0] * _WORD // bits
    group = -(-inputs // groups)
    plus = 0 if _zero_points_as_they_are(quantisation(source.config)) else 1
    order = f"{stem}.g_idx" if f"{stem}.g_idx" in source.files else None
    if order is not None and source.info(order).shape != (inputs,):
        raise misfit(source, order, "GPTQ")

    def part(leading: tuple[int, ...], rows: slice, cols: slice) -> Codes:
        columns = np.arange(cols.start, cols.stop)
        if order is None:
            groups_of = columns // group
        else:
            groups_of = source.stored(order, cols.start, upto=cols.stop).astype(np.intp)
            if groups_of.size and not 0 <= groups_of.min() <= groups_of.max() < groups:
                raise misfit(source, order, "GPTQ")
        # A code of 3 bits may straddle two words; 32 codes never do.
        first, last = cols.start // _WORD * bits, -(-cols.stop // _WORD) * bits
        held = source.stored(f"{stem}.qweight", first, upto=min(last, words[0]))[:, rows]
        codes = unpacked(held.T, bits)[:, columns - first * _WORD // bits]
        one = int(groups_of[0])
        span = (one, one + 1) if len(columns) == 1 else (0, groups)
        held_scales = source.stored(f"{stem}.scales", span[0], upto=span[1])[:, rows]
        held_zeros = unpacked(source.stored(f"{stem}.qzeros", span[0], upto=span[1]), bits)[:, rows]
        zero_points = (held_zeros + plus & (1 << bits) - 1).astype(np.float32)
        at = groups_of - span[0]
        return Codes(codes - zero_points[at].T, held_scales[at].T.astype(np.float32), evenly)

    return Packed(f"GPTQ int{bits}", (outputs, inputs), part)


def _zero_points_as_they_are(settings: Mapping[str, object]) -> bool:
    """Tell whether zero points are stored as they are, and not less one."""
    if str(settings.get("checkpoint_format", "")).endswith("v2"):
        return True
    # AutoRound's own packing, beside the one that is named after AutoGPTQ.
    own = settings.get("packing_format") in ("auto_round", "auto_round:gptqmodel")
    return settings.get("quant_method") == "auto-round" and own


FORM = Form(
    name="GPTQ",
    made_by="GPTQModel, AutoGPTQ, AutoRound",
    layout="scales[g_idx] (q - z); z is stored less one unless checkpoint_format is gptq_v2 or "
    "packing_format auto_round; q packed along the inputs, z along the outputs",
    suffixes=(".qweight",),
    holds=_holds,
    unpack=_unpack,
    checked_against="AutoRound's own pack() and forward on the CPU, in both of its packings; and the layout "
    "written out, packed value by value as the makers' pack() functions do",
)
