"""The tiny checkpoints as GGUF files, written by the format's own library, for llama.cpp and transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from safetensors.torch import load_file
from tokenizers import pre_tokenizers

from tests.helpers.checkpoint_files import CHECKPOINTS, finish_gguf

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_HEADS = 4
# llama.cpp wants a merge: of two bytes that no text in UTF-8 holds, into one more token.
_MERGE = "\u00ff \u00fe"
BYTES = 256


def write_tiny_gguf(
    path: Path,
    name: str = "tiny-planted",
    kind: str = "F32",
    changed: Mapping[str, np.ndarray] | None = None,
    architecture: str = "llama",
    *,
    bos: bool = True,
    splitter: str = "gpt-2",
) -> Path:
    """Write a tiny checkpoint as a GGUF file, its matrices in a type that gguf quantises to.

    ``changed`` takes the place of tensors, by their names in GGUF, before they are rounded. ``bos`` says
    whether one is put in front of a text, ``splitter`` names what splits text before it is tokenised.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(4)
    writer.add_context_length(1024)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(160)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<s>", _MERGE.replace(" ", "")]
    kinds = [gguf.TokenType.NORMAL] * len(tokens)
    kinds[BYTES] = gguf.TokenType.CONTROL
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}" if kind != "F32" else "ALL_F32"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitter)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([_MERGE])
    writer.add_bos_token_id(BYTES)
    writer.add_eos_token_id(BYTES)
    writer.add_add_bos_token(bos)
    rounded = gguf.GGMLQuantizationType[kind]
    for name_in_gguf, numbers in {**tiny_tensors(name), **(changed or {})}.items():
        plain = numbers.ndim == 1
        stored = gguf.GGMLQuantizationType.F32 if plain or numbers.shape[-1] % 32 else rounded
        writer.add_tensor(name_in_gguf, gguf.quants.quantize(numbers, stored), raw_dtype=stored)
    finish_gguf(writer)
    return path


def tiny_tensors(name: str = "tiny-planted") -> dict[str, np.ndarray]:
    """Return the tensors of a tiny checkpoint as GGUF has them, in float32."""
    found = {}
    for key, tensor in load_file(CHECKPOINTS / name / "model.safetensors").items():
        numbers = tensor.float().numpy()
        stem = key.removesuffix(".weight")
        block, _, rest = stem.removeprefix("model.layers.").partition(".")
        in_block = stem.startswith("model.layers.")
        target = f"blk.{block}.{_NAMES[rest]}" if in_block else _NAMES[stem]
        if target.endswith(("attn_q", "attn_k")):
            numbers = _interleaved(numbers)
        if target in ("token_embd", "output"):
            numbers = np.concatenate([numbers, np.zeros((1, numbers.shape[1]), np.float32)])
        found[f"{target}.weight"] = np.ascontiguousarray(numbers)
    return found


def _interleaved(matrix: np.ndarray) -> np.ndarray:
    """Return queries or keys as llama.cpp turns them: pairs side by side, not half a head apart."""
    rows, columns = matrix.shape
    halves = matrix.reshape(_HEADS, 2, rows // _HEADS // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)
