"""A GGUF file of a model that is small, whole, and of no use but to be read."""

from __future__ import annotations

import gguf
import numpy as np


def write_gguf(root):
    """Write a small Llama as a GGUF file, vocabulary of bytes included."""
    hidden, wide, blocks = 64, 160, 4
    # A byte-level tokenizer writes a blank as \u0120.
    tokens = ["<s>", "</s>", "ab", "\u0120", *map(chr, range(ord("!"), ord("~") + 1))]
    vocabulary = len(tokens)
    numbers = np.random.default_rng(0)
    writer = gguf.GGUFWriter(root / "tiny.gguf", "llama")
    writer.add_block_count(blocks)
    writer.add_context_length(256)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(wide)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_rope_dimension_count(hidden // 4)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * vocabulary)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)

    def matrix(*shape):
        return numbers.normal(scale=0.02, size=shape).astype(np.float32)

    writer.add_tensor("token_embd.weight", matrix(vocabulary, hidden))
    writer.add_tensor("output.weight", matrix(vocabulary, hidden))
    writer.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
    for layer in range(blocks):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(hidden, hidden))
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(wide, hidden))
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", matrix(hidden, wide))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
