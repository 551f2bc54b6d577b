"""MXFP4 as in gpt-oss: blocks of 32 inputs in 16 bytes, all experts in one tensor."""

from __future__ import annotations

from superweight.checkpoints.forms.form import (
    Codes,
    Form,
    Packed,
    Source,
    along,
    e2m1,
    e2m1_gap,
    misfit,
)
from superweight.checkpoints.tensors.decoding import exponents

_BLOCK = 32


def _holds(source: Source, stem: str) -> bool:
    return f"{stem}_scales" in source.files


def _unpack(source: Source, stem: str) -> Packed:
    blocks, scales = f"{stem}_blocks", f"{stem}_scales"
    shape = source.info(blocks).shape
    if len(shape) < 3 or shape[-1] != _BLOCK // 2 or source.info(scales).shape != shape[:-1]:
        raise misfit(source, blocks, "MXFP4")

    def part(leading: tuple[int, ...], rows: slice, cols: slice) -> Codes:
        packed = source.stored(blocks, *leading, rows.start, upto=rows.stop)
        factors = source.stored(scales, *leading, rows.start, upto=rows.stop)
        if source.info(scales).dtype == "U8":
            factors = exponents(factors)
        codes = e2m1(packed.reshape(len(packed), -1))[:, cols]
        return Codes(codes, along(factors, cols, _BLOCK), e2m1_gap)

    return Packed("MXFP4", (*shape[:-2], shape[-2] * _BLOCK), part)


FORM = Form(
    name="MXFP4 (gpt-oss)",
    made_by="OpenAI's gpt-oss",
    layout="e2m1 2^(u8 - 127) by 32 inputs; blocks are (experts, outputs, blocks, 16 bytes)",
    suffixes=("_blocks",),
    holds=_holds,
    unpack=_unpack,
    checked_against="transformers' own convert_moe_packed_tensors",
)
