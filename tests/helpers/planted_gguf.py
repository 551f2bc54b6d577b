"""The tiny checkpoints as GGUF files, written by the format's own library, for llama.cpp and transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from transformers import PreTrainedModel

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
_OF_MIXTURES = _NAMES | {
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.down_proj": "ffn_down_exps",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
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
    _add_bytes(writer, kind, bos=bos, splitter=splitter)
    rounded = gguf.GGMLQuantizationType[kind]
    for name_in_gguf, numbers in {**tiny_tensors(name), **(changed or {})}.items():
        plain = numbers.ndim == 1
        stored = gguf.GGMLQuantizationType.F32 if plain or numbers.shape[-1] % 32 else rounded
        writer.add_tensor(name_in_gguf, gguf.quants.quantize(numbers, stored), raw_dtype=stored)
    finish_gguf(writer)
    return path


def _add_bytes(writer: gguf.GGUFWriter, kind: str, *, bos: bool, splitter: str) -> None:
    """Write the tokenizer of the tiny models: a token for each byte."""
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


def write_mixture_gguf(path: Path, model: PreTrainedModel, architecture: str, kind: str = "F32") -> Path:
    """Write a mixture of experts of Qwen's as llama.cpp stores it: the experts of a block in three stacks."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(1024)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if (shared := getattr(config, "shared_expert_intermediate_size", None)) is not None:
        writer.add_expert_shared_feed_forward_length(shared)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    _add_bytes(writer, kind, bos=True, splitter="gpt-2")
    rounded = gguf.GGMLQuantizationType[kind]
    for name, numbers in _mixture_tensors(model).items():
        stored = gguf.GGMLQuantizationType.F32 if numbers.ndim == 1 else rounded
        writer.add_tensor(name, gguf.quants.quantize(numbers, stored), raw_dtype=stored)
    finish_gguf(writer)
    return path


def _mixture_tensors(model: PreTrainedModel) -> dict[str, np.ndarray]:
    """Return the tensors of a mixture as GGUF has them: gate and up of all experts apart."""
    found = {}
    for key, tensor in model.state_dict().items():
        numbers = tensor.float().numpy()
        stem, kind = key.removesuffix(".bias"), "bias" if key.endswith(".bias") else "weight"
        stem = stem.removesuffix(".weight")
        block, _, rest = stem.removeprefix("model.layers.").partition(".")
        if rest == "mlp.experts.gate_up_proj":
            for name, half in zip(("gate", "up"), np.split(numbers, 2, axis=1), strict=True):
                found[f"blk.{block}.ffn_{name}_exps.weight"] = np.ascontiguousarray(half)
        else:
            name = f"blk.{block}.{_OF_MIXTURES[rest]}" if stem.startswith("model.layers.") else _NAMES[stem]
            # What is one row in the model is a vector in the file.
            found[f"{name}.{kind}"] = np.ascontiguousarray(numbers[0] if len(numbers) == 1 else numbers)
    return found


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


def crowded_in_gguf() -> dict[str, np.ndarray]:
    """Return the tensors that `benchmarks.quantisers.crowded` changes, by their names in GGUF."""
    tensors = load_file(CHECKPOINTS / "tiny-planted" / "model.safetensors")
    found = {}
    for part, name in (("down_proj", "ffn_down"), ("up_proj", "ffn_up"), ("gate_proj", "ffn_gate")):
        found[f"blk.1.{name}.weight"] = tensors[f"model.layers.1.mlp.{part}.weight"].float().numpy().copy()
    found["blk.1.ffn_down.weight"][41, 24] = 2048.0
    for name in ("ffn_up", "ffn_gate"):
        found[f"blk.1.{name}.weight"][24] *= 0.01
    return found
