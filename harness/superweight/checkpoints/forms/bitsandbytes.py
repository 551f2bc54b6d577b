"""bitsandbytes 4-bit: codes of a table, the higher half of a byte first, with the largest of each block."""

from __future__ import annotations

import json

import numpy as np

from superweight.checkpoints.forms.form import Codes, Form, Packed, Source, misfit
from superweight.checkpoints.tensors.decoding import Floats
from superweight.core.errors import BadInput

_STATE = ".quant_state.bitsandbytes__"
_TYPES = ("nf4", "fp4")


def _state_name(source: Source, stem: str) -> str:
    """Return the tensor that tells how a weight is packed, empty where there is none."""
    names = (f"{stem}.weight{_STATE}{kind}" for kind in _TYPES)
    return next((name for name in names if name in source.files), "")


def _holds(source: Source, stem: str) -> bool:
    return f"{stem}.weight.absmax" in source.files and bool(_state_name(source, stem))


def _unpack(source: Source, stem: str) -> Packed:
    name, state_name = f"{stem}.weight", _state_name(source, stem)
    try:
        state = json.loads(source.stored(state_name).tobytes())
        outputs, inputs = (int(length) for length in state["shape"])
        block = int(state["blocksize"])
        nested = int(state["nested_blocksize"]) if "nested_blocksize" in state else 0
        offset = float(state.get("nested_offset", 0.0))
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{source.name}: {state_name} is no state of bitsandbytes ({error})") from error
    info = source.info(name)
    if info.dtype != "U8" or block < 1 or 2 * info.elements < outputs * inputs:
        raise misfit(source, name, "bitsandbytes 4-bit")
    table = source.stored(f"{name}.quant_map").astype(np.float32)
    ordered = np.unique(table)
    flat = f"{name}.absmax"

    def largest(first: int, last: int) -> Floats:
        held = source.stored(flat, first, upto=last)
        if not nested:
            return held.astype(np.float32)
        blocks = np.arange(first, last) // nested
        outer = source.stored(f"{name}.nested_absmax").astype(np.float32)[blocks]
        inner = source.stored(f"{name}.nested_quant_map").astype(np.float32)[held]
        return np.asarray(inner * outer + np.float32(offset), dtype=np.float32)

    def gap(code: float) -> float:
        near = np.abs(ordered - code)
        return float(near[near > 0].min())

    def part(leading: tuple[int, ...], rows: slice, cols: slice) -> Codes:
        whole_rows = cols.stop - cols.start > 1
        begin = rows.start * inputs + (0 if whole_rows else cols.start)
        end = (rows.stop - 1) * inputs + (inputs if whole_rows else cols.stop)
        data = _bytes(source, name, begin // 2, -(-end // 2))
        codes = np.stack([data >> 4, data & 15], axis=-1).reshape(-1)[begin % 2 :][: end - begin]
        first = begin // block
        factors = largest(first, -(-end // block))[np.arange(begin, end) // block - first]
        shape = (rows.stop - rows.start, -1)
        within = cols if whole_rows else slice(None)
        return Codes(table[codes].reshape(shape)[:, within], factors.reshape(shape)[:, within], gap)

    return Packed(f"bitsandbytes {state_name.rpartition('__')[2]}", (outputs, inputs), part)


def _bytes(
    source: Source, name: str, first: int, last: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    shape = source.info(name).shape
    if (len(shape) == 2 and shape[1] == 1) or len(shape) == 1:
        return source.stored(name, first, upto=last).reshape(-1)
    return source.stored(name).reshape(-1)[first:last]


FORM = Form(
    name="bitsandbytes 4-bit",
    made_by="bitsandbytes through transformers: nf4 and fp4, nested (double quantisation) or not",
    layout="quant_map[q] absmax by block, the higher half of a byte first; nested: absmax is "
    "nested_quant_map[u8] nested_absmax + nested_offset",
    suffixes=(".weight",),
    holds=_holds,
    unpack=_unpack,
    checked_against="bitsandbytes' own quantize_4bit and dequantize_4bit on the CPU",
)
