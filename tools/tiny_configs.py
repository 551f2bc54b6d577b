"""Make configs of every model type so small that it runs in a second, from one table of sizes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

HIDDEN, INTER, MOE, L, HEADS, HD, V = 64, 96, 80, 6, 4, 16, 257

SIZES: dict[str, Any] = {
    # depth
    **dict.fromkeys(
        [
            "num_hidden_layers",
            "n_layer",
            "n_layers",
            "num_layers",
            "decoder_layers",
            "num_decoder_layers",
            "num_blocks",
        ],
        L,
    ),
    **dict.fromkeys(["encoder_layers", "num_encoder_layers"], L),
    # width
    **dict.fromkeys(
        [
            "hidden_size",
            "d_model",
            "n_embd",
            "emb_dim",
            "dim_model",
            "embedding_dim",
            "word_embed_proj_dim",
            "projection_dim",
            "out_hidden_size",
            "output_dim",
            "backbone_hidden_size",
        ],
        HIDDEN,
    ),
    **dict.fromkeys(
        [
            "intermediate_size",
            "n_inner",
            "ffn_dim",
            "decoder_ffn_dim",
            "encoder_ffn_dim",
            "dff",
            "dim_ff",
            "d_inner",
            "feed_forward_size",
            "ffn_hidden_size",
            "intermediate_size_mlp",
            "dense_intermediate_size",
            "prefix_dense_intermediate_size",
        ],
        INTER,
    ),
    # heads
    **dict.fromkeys(
        [
            "num_attention_heads",
            "n_head",
            "n_heads",
            "num_heads",
            "decoder_attention_heads",
            "encoder_attention_heads",
            "num_decoder_attention_heads",
            "num_encoder_attention_heads",
            "attention_heads",
            "swa_num_attention_heads",
        ],
        HEADS,
    ),
    **dict.fromkeys(["num_key_value_heads", "swa_num_key_value_heads", "num_kv_heads"], 2),
    **dict.fromkeys(
        [
            "head_dim",
            "swa_head_dim",
            "kv_channels",
            "d_head",
            "dim_head",
            "attention_head_size",
            "global_head_dim",
        ],
        HD,
    ),
    "rotary_dim": 8,
    # latent attention
    "kv_lora_rank": 24,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "o_lora_rank": 16,
    "o_groups": 2,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 64,
    "n_indexer_heads": 2,
    # experts
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "num_selected_experts"], 2),
    **dict.fromkeys(
        [
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "shared_experts_intermediate_size",
            "moe_shared_expert_intermediate_size",
            "expert_ffn_hidden_size",
        ],
        MOE,
    ),
    "shared_intermediate_size": 88,
    **dict.fromkeys(["n_shared_experts", "num_shared_experts", "moe_num_shared_experts"], 1),
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "moe_layer_start_index": 1,
    "zero_expert_num": 2,
    # state-space and linear attention
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_heads": 4,
    "linear_head_dim": 16,
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "mamba_d_ssm": 128,
    "mamba_dt_rank": 4,
    "state_size": 8,
    "ssm_state_size": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "n_groups": 1,
    "chunk_size": 16,
    "time_step_rank": 4,
    "n_mamba_heads": 2,
    "mamba_headdim": 16,
    "lru_width": HIDDEN,
    "block_size": 16,
    "attention_hidden_size": HIDDEN,
    # embeddings
    "vocab_size": V,
    "decoder_vocab_size": V,
    "vocab_size_per_layer_input": V,
    "hidden_size_per_layer_input": 12,
    "embedding_size": HIDDEN,
    "input_embedding_size": HIDDEN,
    "output_embedding_size": HIDDEN,
    "laurel_rank": 8,
    "adapter_rank": 8,
    "hc_lowrank": 16,
    "gated_norm_rank": 8,
    **dict.fromkeys(
        [
            "max_position_embeddings",
            "n_positions",
            "n_ctx",
            "max_seq_len",
            "context_length",
            "max_target_positions",
            "original_max_position_embeddings",
        ],
        1024,
    ),
    "max_source_positions": 32,
    "router_hidden_size": 16,
    "position_bias_num_buckets": 32,
    "position_bias_max_distance": 64,
    "pronunciation_embed_dim": 16,
    "shape_embed_dim": 16,
    "num_centroids": 8,
    "centroid_intermediate_top_k": 2,
    # vision and audio towers
    "depth": 2,
    "image_size": 32,
    "patch_size": 8,
    "num_channels": 3,
    "layer_types": None,
    "mlp_layer_types": None,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Sizes that only a tower has, which must not be as deep as the decoder.
TOWER: dict[str, Any] = {
    **SIZES,
    "num_hidden_layers": 2,
    "num_blocks": 2,
    "encoder_layers": 2,
    "num_encoder_layers": 2,
    "num_layers": 2,
    "n_layers": 2,
    "hidden_size": 32,
    "d_model": 32,
    "intermediate_size": 40,
    "embed_dim": 32,
    "num_attention_heads": 2,
    "num_heads": 2,
    "num_key_value_heads": 2,
}
TOWERS = (
    "vision_config",
    "audio_config",
    "vq_config",
    "qformer_config",
    "audio_encoder",
    "audio_encoder_config",
    "text_encoder",
    "encoder",
    "encoder_config",
    "vision_encoder_config",
    "sam_config",
    "high_res_vision_config",
    "protein_encoder_config",
    "audio_tower_config",
    "perceiver_config",
    "patcher_config",
    "depth_decoder_config",
    "decoder_visual_config",
    "speech_config",
)
NONE_STAYS = {
    "q_lora_rank",
    "head_dim",
    "d_head",
    "embedding_size",
    "attention_hidden_size",
    "num_key_value_heads",
    "n_routed_experts",
    "shared_intermediate_size",
}
IDS = ("_token_id", "_token_index", "_token_ids")


def tiny_config(model_type: str, overrides: Mapping[str, Any] | None = None) -> Any:
    """Return a tiny config of a model type."""
    config_class = CONFIG_MAPPING[model_type]
    return config_class(**kwargs_of(config_class, model_type, SIZES, copy.deepcopy(dict(overrides or {}))))


def kwargs_of(
    config_class: Any, model_type: str, sizes: Mapping[str, Any], overrides: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments that make a config of the class tiny, its parts included."""
    fields = {
        f.name: f.default if f.default is not dataclasses.MISSING else None
        for f in dataclasses.fields(config_class)
    }
    out: dict[str, Any] = {}
    spare = 255
    for name, default in fields.items():
        if name in ("layer_types", "mlp_layer_types"):
            continue
        if name in sizes and not (default is None and name in NONE_STAYS):
            out[name] = sizes[name]
        elif name.endswith(IDS) and isinstance(default, int) and default > 2:
            out[name], spare = spare, spare - 1
        elif isinstance(default, float) and "drop" in name:
            out[name] = 0.0
    if "kv_lora_rank" in fields and "num_key_value_heads" in fields:
        out["num_key_value_heads"] = out.get("num_attention_heads", HEADS)
        if "qk_rope_head_dim" in fields:
            out.pop("head_dim", None)
    if fields.get("shared_intermediate_size"):
        out["shared_intermediate_size"] = 88
    for key, spec in (config_class.sub_configs_defaults or {}).items():
        tower = key in TOWERS or "vision" in key or "audio" in key
        own = overrides.pop(key, {})
        if own is None:
            out[key] = None
            continue
        own = {**{k: v for k, v in spec.init_kwargs.items() if k not in SIZES}, **own}
        kind = own.pop("model_type", None) or spec.model_type
        chosen = (
            spec.config_class if hasattr(spec.config_class, "sub_configs_defaults") else CONFIG_MAPPING[kind]
        )
        inner = kwargs_of(chosen, kind, TOWER if tower else sizes, own)
        if kind:
            inner["model_type"] = kind
        out[key] = inner
    out.update(overrides)
    return out


# What single families need beside the table of sizes.
_G3N = {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 3}
_FULL = ["full_attention"] * 6
_Q4 = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
}
_D3V = {
    "moe_intermediate_size": 40,
    "adapter_in_dim": 32,
    "adapter_out_dim": 64,
    "mlp_layer_types": ["dense", "dense"],
    "num_attention_heads": 2,
}
OVERRIDES: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {"layer_types": _FULL},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 64},
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "dots3_note": {"vision_config": _D3V, "audio_config": {"adapter_out_dim": 64, "adapter_input_size": 32}},
    "gemma3n_text": _G3N,
    "gemma3n": {"text_config": dict(_G3N)},
    "gpt_neo": {"attention_types": [[["global", "local"], 3]]},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention", "conv", "full_attention", "conv", "full_attention"]
    },
    "longcat_flash": {"num_layers": 6, "head_dim": 8},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "qwen4_exp_text": _Q4,
    "reformer": {
        "is_decoder": True,
        "axial_pos_shape": [32, 32],
        "axial_pos_embds_dim": [32, 32],
        "attn_layers": ["local", "lsh"] * 3,
    },
    "gemma4_text": {"hidden_size_per_layer_input": 0},
    "nemotron_h": {"layers_block_type": ["mamba", "mlp", "attention", "mlp", "mamba", "mlp"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "zamba": {"attn_layer_period": 3, "attn_layer_offset": 1},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "llama4_text": {"interleave_moe_layer_step": 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 3},
    "lfm2": {"block_auto_adjust_ff_dim": False},
    "granite": {"residual_multiplier": 0.22},
    "granitemoe": {"residual_multiplier": 0.22},
    "granitemoeshared": {"residual_multiplier": 0.22, "shared_intermediate_size": 88},
    "blenderbot": {"encoder_layers": 2},
    "gemma4_assistant": {
        "text_config": {
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_kv_shared_layers": 6,
        }
    },
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba", "mamba", "hybrid", "mamba"]},
    "zaya": {"num_experts_per_tok": 1},
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        "encoder_config": {
            "hidden_size": HIDDEN,
            "hidden_size_global": HIDDEN,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
        },
        "decoder_config": {"hidden_size_global": HIDDEN},
    },
}
_VCT = {
    "full_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
}
OVERRIDES["cohere_compass_text"] = {"layer_types": _FULL, "rope_parameters": _VCT}


# These are bidirectional but where their config says otherwise; as causal classes they are to say so.
_BIDIRECTIONAL = ("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie")
_BIDIRECTIONAL += ("megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer")
_BIDIRECTIONAL += ("xlm-roberta", "xlm-roberta-xl", "xmod")
OVERRIDES |= {name: {"is_decoder": True} for name in _BIDIRECTIONAL}
OVERRIDES["xmod"]["default_language"] = "en_XX"
OVERRIDES["dbrx"]["attn_config"]["clip_qkv"] = 8.0


def _mrope(*sections: int, **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections), **more}
    return {"text_config": {"rope_parameters": rope}}


# Image-text classes: their decoder is inside.
OVERRIDES |= {name: _mrope(2, 3, 3) for name in ("qwen2_vl", "qwen2_5_vl", "paddleocr_vl", "cosmos3_edge")}
OVERRIDES |= {name: _mrope(2, 3, 3) for name in ("glm4v", "glm46v", "glmga", "glm_ocr")}
OVERRIDES |= {
    "glm4v_moe": _mrope(2, 1, 1, partial_rotary_factor=0.5),
    "qwen4_exp": {"text_config": _Q4},
    "cohere_compass": {"text_config": {"layer_types": _FULL, "rope_parameters": _VCT}},
    "hunyuan_vl": {
        "text_config": {
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 2, 2, 2],
            },
        }
    },
    "ernie4_5_vl_moe": {
        "text_config": {
            "moe_intermediate_size": [80, 80],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 2]},
        }
    },
    "qwen2_5_omni_thinker": {"vision_start_token_id": 240, **_mrope(2, 3, 3)},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 240},
    "udop": {"d_ff": INTER},
    # Towers of the timm library say their width themselves; the projection behind them is built by it.
    "fast_vlm": {"vision_config": {"hidden_size": 32}},
    "perception_lm": {"vision_config": {"model_args": {"embed_dim": 32}}},
    "step3p7": {"text_config": {"sliding_window": 64}},
    "glm5_next": {"text_config": {"qk_rope_head_dim": 0}},
    "inkling2": {"vision_config": {"text_hidden_size": 64}},
    "t5gemma2": {
        "encoder": {
            "text_config": {
                "hidden_size": 64,
                "num_hidden_layers": 6,
                "intermediate_size": 96,
                "num_attention_heads": 4,
            }
        }
    },
}

OVERRIDES |= {
    **{
        name: {"text_config": {"layers": 6, "embed_dim": 64, "ffn_dim": 96, "attention_heads": 4}}
        for name in ("kosmos-2", "kosmos-2.5")
    },
    "chameleon": {"vocabulary_map": {"<image>": 250}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", *["sparse"] * 5]}},
    "emu3": {
        "vocabulary_map": {"<image>": 250, "<|extra_200|>": 251, "<|visual token 000000|>": 252},
    },
    "florence2": {
        "vision_config": {
            "embed_dim": [32, 32, 32, 32],
            "num_heads": [2, 2, 2, 2],
            "num_groups": [2, 2, 2, 2],
            "patch_size": [7, 3, 3, 3],
        }
    },
    "granite4_vision": {
        "deepstack_layer_map": [[0, 1]],
        "spatial_target_layers": [0],
        "downsample_rate": "1/2",
        "vision_config": {"hidden_size": 128},
    },
    "molmo2": {
        "vision_config": {"image_size": [32, 32]},
        "adapter_config": {"vision_feature_layer": [1, 0]},
    },
    "muse_spark": {
        "audio_config": {
            "num_hidden_layers": 4,
            "patch_sizes": [4, 2, 2, 2],
            "hidden_sizes": [16, 16, 32, 32],
            "depths": [1, 1, 1, 1],
        }
    },
    "nemotron_h_omni": {"audio_config": {"projection_hidden_size": 32, "projection_bias": False}},
}

# What families release, where it is not the class's default: name -> (model type, overrides).
_NEMOTRON = ["mamba", "moe", "attention", "moe", "mamba", "moe"]
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma4_text#E2B-per-layer-embeddings": ("gemma4_text", {"hidden_size_per_layer_input": 12}),
    "gemma4_text#26B-A4B-moe": (
        "gemma4_text",
        {
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 80,
        },
    ),
    "granitemoehybrid#4.0-dense": (
        "granitemoehybrid",
        {"layer_types": ["mamba", "attention"] * 3, "num_local_experts": 0, "residual_multiplier": 0.22},
    ),
    "granitemoehybrid#attention-only": (
        "granitemoehybrid",
        {"layer_types": ["attention"] * 6, "num_local_experts": 0, "residual_multiplier": 0.22},
    ),
    "nemotron_h#3-nano-moe": ("nemotron_h", {"layers_block_type": _NEMOTRON, "moe_latent_size": None}),
    "nemotron_h#3-super-latent-moe": ("nemotron_h", {"layers_block_type": _NEMOTRON, "moe_latent_size": 32}),
    "llama4_text#scout-all-moe": ("llama4_text", {"interleave_moe_layer_step": 1}),
    "doge#moe": ("doge", {"is_moe": True, "num_experts": 16}),
    "opt#350m-post-norm": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    "falcon#40b": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "stablelm#parallel": ("stablelm", {"use_parallel_residual": True}),
    "gpt_neox#serial": ("gpt_neox", {"use_parallel_residual": False}),
    "qwen2_moe#A14B": ("qwen2_moe", {"mlp_only_layers": [0]}),
    "minicpm3#as-deep-as-released": ("minicpm3", {"scale_depth": 0.436}),  # 1.4 / sqrt(62), at 6 blocks
    "falcon_h1#0.5B-multipliers": ("falcon_h1", {"mlp_multipliers": [0.8838834764831844, 0.5859375]}),
    "falcon_h1#multipliers": ("falcon_h1", {"mlp_multipliers": [0.8, 0.1]}),
    "gemma4_text#layer-scalar-0.8": (
        "gemma4_text",
        {"hidden_size_per_layer_input": 0, "__layer_scalar__": 0.8},
    ),
    "whisper#turbo": ("whisper", {"encoder_layers": 2}),
    "deepseek_v2#lite": ("deepseek_v2", {"q_lora_rank": None}),
}
