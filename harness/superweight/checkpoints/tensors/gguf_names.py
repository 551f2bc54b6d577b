"""Translate llama.cpp's names of tensors into those that transformers gives the same matrices."""

from __future__ import annotations

import re

# The dense decoder of llama.cpp's names; what is not listed has no counterpart to be held to.
IN_BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
WHOLE = {
    "token_embd.weight": "embed_tokens.weight",
    "output.weight": "lm_head.weight",
    "output_norm.weight": "norm.weight",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def plain_name(name: str) -> str:
    """Return what transformers calls a tensor of a GGUF file, without a wrapper; others keep their name."""
    if match := _BLOCK.fullmatch(name):
        part = IN_BLOCK.get(match[2])
        return name if part is None else f"layers.{match[1]}.{part}.{match[3]}"
    return WHOLE.get(name, name)
