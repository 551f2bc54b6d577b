"""Make GGUF files of one model in several types, by llama.cpp's own quantiser for each tensor.

xllamacpp's library holds `ggml_quantize_chunk`, which rounds a tensor, and not `llama_model_quantize`,
which chooses a type for each. What it would choose is written out here for a dense Llama with tied
embeddings whose queries share keys by fewer than four, after `llama_tensor_get_type_impl` and
`tensor_type_fallback` in src/llama-quant.cpp of ggml-org/llama.cpp at 007dbbf3. Of the real model
`llama-quantize` writes the same bytes (tests/engines/test_llama_quantize.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

KINDS = ("F16", "Q8_0", "Q4_0", "Q4_1", "Q4_K_M", "Q2_K")
_WIDE = 256
# What a row that no block of 256 divides is stored in instead.
_FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def write_as(
    source: Path,
    target: Path,
    kind: str,
    stored: Mapping[str, str] | None = None,
    changed: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write ``target``: the tensors of ``source`` as ``kind`` has them, those of ``stored`` as named there.

    ``changed`` takes the place of tensors before they are rounded.
    """
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        held = field.types[0]
        items = field.types[-1] if held == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), held, sub_type=items)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])
    blocks = 1 + max(int(name.split(".")[1]) for name in _names(reader) if name.startswith("blk."))
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        numbers = (changed or {}).get(tensor.name, numbers)
        chosen = (stored or {}).get(tensor.name) or type_of(tensor.name, numbers.shape, kind, blocks)
        rounded = gguf.GGMLQuantizationType[chosen]
        writer.add_tensor(tensor.name, quantised(numbers, rounded), raw_dtype=rounded)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _names(reader: gguf.GGUFReader) -> list[str]:
    return [tensor.name for tensor in reader.tensors]


def type_of(name: str, shape: tuple[int, ...], kind: str, blocks: int) -> str:
    """Return the type that llama.cpp gives a tensor in a file of some kind."""
    if len(shape) == 1:
        return "F32"
    chosen = {"Q4_K_M": _q4_k_m, "Q2_K": _q2_k}.get(kind, _one_type)(name, kind, blocks)
    return _FALLBACK[chosen] if chosen in _FALLBACK and shape[-1] % _WIDE else chosen


def _one_type(name: str, kind: str, blocks: int) -> str:
    # The matrix that is also the head is rounded less; F32, F16 and Q8_0 are no less than that.
    return "Q6_K" if name == "token_embd.weight" and kind in ("Q4_0", "Q4_1") else kind


def _q4_k_m(name: str, kind: str, blocks: int) -> str:
    if name == "token_embd.weight":
        return "Q6_K"
    if name.endswith(("attn_v.weight", "ffn_down.weight")) and _more_bits(int(name.split(".")[1]), blocks):
        return "Q6_K"
    return "Q4_K"


def _q2_k(name: str, kind: str, blocks: int) -> str:
    if name == "token_embd.weight":
        return "Q6_K"
    return "Q3_K" if name.endswith(("attn_v.weight", "ffn_down.weight", "attn_output.weight")) else "Q2_K"


def _more_bits(layer: int, blocks: int) -> bool:
    return layer < blocks // 8 or layer >= 7 * blocks // 8 or (layer - blocks // 8) % 3 == 2


def quantised(numbers: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """Round a matrix by ggml's own function; plain types are gguf's: (rows, bytes)."""
    if kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
        return gguf.quants.quantize(numbers, kind)
    from xllamacpp import xllamacpp as native

    function = ctypes.CDLL(str(native.__file__)).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    wide, place = ctypes.c_int64, ctypes.c_void_p
    function.argtypes = [ctypes.c_int, place, place, wide, wide, wide, place]
    rows = np.ascontiguousarray(numbers, np.float32).reshape(-1, numbers.shape[-1])
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    result = np.zeros((len(rows), rows.shape[1] // elements * size), np.uint8)
    written = function(int(kind), rows.ctypes.data, result.ctypes.data, 0, *rows.shape, None)
    if written != result.nbytes:
        raise RuntimeError(f"ggml wrote {written} bytes of {result.nbytes}")
    return result.reshape(*numbers.shape[:-1], -1)
