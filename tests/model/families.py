"""Tiny randomly initialised models of the real transformers classes, and super weights planted in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers

from superweight.core.coordinates import Coordinate
from superweight.detection.run_trace import trace
from superweight.model.projections import Projection
from superweight.model.subject import Subject
from tests.helpers.live_models import random_model

TEXT = "A short prompt."
BLOCKS, HIDDEN, INTERMEDIATE, EXPERTS = 4, 32, 48, 4

_SHAPE: Mapping[str, Any] = {
    "vocab_size": 257,
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_GPT = {"n_embd": HIDDEN, "n_inner": INTERMEDIATE, "n_layer": BLOCKS, "n_head": 4}
_MIXTURE = {
    "num_local_experts": EXPERTS,
    "num_experts": EXPERTS,
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": INTERMEDIATE,
}
_LATENT_ATTENTION = {
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 2,
    "num_key_value_heads": 4,
}


@dataclass(frozen=True)
class Tiny:
    """One family: its transformers config, and the kind of MLP that it stands for."""

    kind: str
    config: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def build(self, template: Subject) -> Subject:
        """Return a seeded random model in ``template``'s tokenizer."""
        config = getattr(transformers, self.config)(**{**_SHAPE, **self.settings})
        built = random_model(template, config, seed=11)
        return replace(built, name=type(built.model).__name__)


GATED, FUSED, PLAIN = "separate gate and up", "fused gate and up", "no gate"
POST_NORM, MIXTURE, NESTED = "norm behind the MLP", "mixture of experts", "inside a vision-language model"

FAMILIES = {
    "Llama": Tiny(GATED, "LlamaConfig"),
    "DeepSeek LLM": Tiny(GATED, "LlamaConfig", {"num_key_value_heads": 4, "rms_norm_eps": 1e-6}),
    "Mistral": Tiny(GATED, "MistralConfig"),
    "Qwen2": Tiny(GATED, "Qwen2Config"),
    "Qwen3": Tiny(GATED, "Qwen3Config"),
    "OLMo": Tiny(GATED, "OlmoConfig"),
    "SmolLM3": Tiny(GATED, "SmolLM3Config", {"pad_token_id": 0}),
    "Granite": Tiny(GATED, "GraniteConfig", {"residual_multiplier": 0.22}),
    "Phi-3": Tiny(FUSED, "Phi3Config", {"pad_token_id": 0}),
    "GPT-2": Tiny(PLAIN, "GPT2Config", _GPT),
    "GPT-NeoX": Tiny(PLAIN, "GPTNeoXConfig"),
    "GPT-J": Tiny(PLAIN, "GPTJConfig", {**_GPT, "rotary_dim": 4}),
    "OPT": Tiny(PLAIN, "OPTConfig", {"ffn_dim": INTERMEDIATE, "word_embed_proj_dim": HIDDEN}),
    "Falcon": Tiny(PLAIN, "FalconConfig", {"ffn_hidden_size": INTERMEDIATE}),
    "Bloom": Tiny(PLAIN, "BloomConfig", {"n_layer": BLOCKS, "n_head": 4}),
    "Phi-2": Tiny(PLAIN, "PhiConfig"),
    "StarCoder2": Tiny(PLAIN, "Starcoder2Config"),
    "Gemma 2": Tiny(POST_NORM, "Gemma2Config"),
    "Gemma 3": Tiny(POST_NORM, "Gemma3TextConfig"),
    "OLMo-2": Tiny(POST_NORM, "Olmo2Config"),
    "Mixtral": Tiny(MIXTURE, "MixtralConfig", _MIXTURE),
    "Qwen3-MoE": Tiny(MIXTURE, "Qwen3MoeConfig", _MIXTURE),
    "Qwen2-MoE": Tiny(MIXTURE, "Qwen2MoeConfig", {**_MIXTURE, "shared_expert_intermediate_size": 40}),
    "OLMoE": Tiny(MIXTURE, "OlmoeConfig", _MIXTURE),
    "DeepSeek-V2": Tiny(MIXTURE, "DeepseekV2Config", {**_MIXTURE, **_LATENT_ATTENTION}),
    "DeepSeek-V3": Tiny(MIXTURE, "DeepseekV3Config", {**_MIXTURE, **_LATENT_ATTENTION}),
    "GPT-OSS": Tiny(MIXTURE, "GptOssConfig", _MIXTURE),
}  # fmt: skip


def site(subject: Subject, layer: int = 1) -> tuple[Projection, int, int]:
    """Return the projection of a block that saw most tokens, and a row and column in it."""
    write = max(
        trace(subject, TEXT).writes[layer], key=lambda write: (write.expert is not None, len(write.tokens))
    )
    projection = subject.architecture.writer(layer, write.expert)
    return projection, 17, int(abs(write.inputs).max(0).argmax())


@contextmanager
def planted_in(subject: Subject, layer: int = 1) -> Iterator[Coordinate]:
    """Plant one super weight and take it out again.

    Its product is 1000 at the token where its neuron is most active. A norm behind the MLP bounds
    what any scalar can write, so there the norm's gain is planted too and the rest of the row is
    made small, as in the models where such a norm makes the activation massive.
    """
    projection, row, col = site(subject, layer)
    write = next(write for write in trace(subject, TEXT).writes[layer] if write.expert == projection.expert)
    active = write.inputs[:, col] * write.factors
    weight = projection.weight()
    stored = weight[row].clone()
    norm = norm_behind(subject, layer)
    gain = None if norm is None else norm.weight.detach()[row].clone()
    strongest = float(active[abs(active).argmax()]) * subject.architecture.layout[layer].scale
    weight[row, col] = 1000.0 / strongest
    if norm is not None:
        weight[row] *= 1e-4
        weight[row, col] = stored.abs().max() * 10
        norm.weight[row] = 1000.0
    try:
        yield projection.at(row, col)
    finally:
        weight[row] = stored
        if norm is not None:
            norm.weight[row] = gain


def norm_behind(subject: Subject, layer: int) -> torch.nn.Module | None:
    """Return the norm that the class names as standing behind the MLP."""
    return getattr(subject.architecture.blocks[layer], "post_feedforward_layernorm", None)
