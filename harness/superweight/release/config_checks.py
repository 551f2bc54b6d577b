"""Whatever of config.json and generation_config.json decides what is computed, compared by name."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from superweight.checkpoints.tensors.checkpoint import Checkpoint, json_object
from superweight.core.errors import BadInput
from superweight.release.result import STATIC, Check, broken, joined, within

CONFIG, STOP = "config", "end of text"

# How many positions are told apart, and how: text that is shorter than what they bear on hides them.
_POSITIONS = (
    "rope_theta",
    "rope_type",
    "rotary_pct",
    "partial_rotary_factor",
    "rope_local_base_freq",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "layer_types",
    "attention_chunk_size",
    "no_rope_layers",
    "alibi",
)
# Of those, what acts from a certain length on: the first two hold that length.
_WINDOWS = (
    "sliding_window",
    "attention_chunk_size",
    "use_sliding_window",
    "max_window_layers",
    "layer_types",
)
# The longest text that predictions are compared on.
READ = 1024
# What every token's numbers depend on.
_COMPUTED = (
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "norm_epsilon",
    "num_attention_heads",
    "num_key_value_heads",
    "n_head",
    "num_hidden_layers",
    "n_layer",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "attention_bias",
    "mlp_bias",
    "qkv_bias",
    "qk_layernorm",
    "use_qk_norm",
    "clip_qkv",
    "attention_multiplier",
    "embedding_multiplier",
    "logits_scaling",
    "residual_multiplier",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "scale_emb",
    "scale_depth",
    "dim_model_base",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logit_scale",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "norm_topk_prob",
    "routed_scaling_factor",
    "n_group",
    "topk_group",
    "scoring_func",
    "first_k_dense_replace",
    "use_parallel_residual",
    "parallel_attn",
)
_SAME_NAME = {"torch_dtype": "dtype"}
# Spelt differently, computed alike.
_SAME_ACTIVATION = {"swish": "silu", "gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new"}
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")


def compare_configs(base: Checkpoint, release: Checkpoint) -> Iterator[Check]:
    """Yield the checks of the two config.json, and of what ends a text.

    A GGUF file has neither: `compare_settings` compares what its conversion computes with.
    """
    if base.is_gguf or release.is_gguf or not (base.config and release.config):
        return
    yield compare_settings(base.config, release.config)
    yield from _end_of_text(base, release)


def compare_settings(base: Mapping[str, Any], release: Mapping[str, Any]) -> Check:
    """Return the check of what two configs compute, as files or as loaded models have them."""
    before, after = settings(base), settings(release)
    if before.keys() != after.keys():
        # One side leaves out what the other states: the class knows what it then computes with.
        before, after = (settings({**_class_defaults(side), **side}) for side in (base, release))
    keys = sorted(before.keys() | after.keys())
    differing = [key for key in keys if not _same(before.get(key), after.get(key))]
    if not differing:
        told = _told(base, release)
        words = f"all {len(before)} settings that decide what is computed are the base's"
        return within(STATIC, CONFIG, f"{words}{f'; {joined(told)}' if told else ''}", 0.0)
    words = joined([f"{key} {_shown(before.get(key))} became {_shown(after.get(key))}" for key in differing])
    positions = [key for key in differing if _of_positions(key)]
    unseen = bool(positions) and _acts_beyond(READ, positions, before, after, base, release)
    rope = len(positions) == len(differing) and not any(key in _WINDOWS for key in positions)
    figures = {"keys": differing, "positions": positions, "unseen": unseen, "rope_alone": rope}
    return broken(STATIC, CONFIG, f"config.json: {words}", **figures)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a config decides what is computed, whichever way it is written."""
    whole = dict(_text(config))
    found = {key: whole[key] for key in (*_COMPUTED, *_POSITIONS) if whole.get(key) is not None}
    found |= _rope(whole)
    for key in _ACTIVATIONS:
        if key in found:
            found[key] = _SAME_ACTIVATION.get(found[key], found[key])
    if found.get("num_key_value_heads") is None and "num_attention_heads" in found:
        found["num_key_value_heads"] = found["num_attention_heads"]
    if "head_dim" not in found and found.get("hidden_size") and found.get("num_attention_heads"):
        found["head_dim"] = found["hidden_size"] // found["num_attention_heads"]
    if found.get("use_sliding_window") is False:
        # Stated beside it, a window means nothing then.
        for key in ("sliding_window", "max_window_layers", "use_sliding_window"):
            found.pop(key, None)
    return found


def _class_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config as its class fills it in; empty without transformers, or for a class that it lacks."""
    try:
        # Takes seconds to import, and only the defaults of old files need it.
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        kind = CONFIG_MAPPING[str(config.get("model_type"))]
        # Of the file's own sizes, so that what the class derives from them is derived from these.
        defaults: dict[str, Any] = kind.from_dict(dict(config)).to_dict()
    # What a class makes of settings that are not its own is not known: then the file alone counts.
    except Exception:
        return {}
    return defaults


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return how positions are turned, from either way of writing it."""
    found: dict[str, Any] = {}
    written = config.get("rope_parameters") or config.get("rope_scaling") or {}
    for name, value in written.items() if isinstance(written, dict) else ():
        if isinstance(value, dict):
            found |= {f"rope.{name}.{key}": item for key, item in value.items() if item is not None}
        elif value is not None:
            found["rope_type" if name == "type" else name] = value
    if "rope_theta" in config and config["rope_theta"] is not None:
        found.setdefault("rope_theta", config["rope_theta"])
    if found or "rope_scaling" in config:
        found.setdefault("rope_type", "default")
    return found


def _of_positions(key: str) -> bool:
    known = (*_POSITIONS, "factor", "original_max_position_embeddings")
    return key in known or key.startswith(
        ("rope.", "beta_", "mscale", "attention_factor", "low_freq", "high_freq")
    )


def _acts_beyond(
    length: int,
    positions: list[str],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    base: Mapping[str, Any],
    release: Mapping[str, Any],
) -> bool:
    """Tell whether what differs changes nothing up to ``length`` tokens, and text beyond it."""
    windows = [side.get(key) for side in (before, after) for key in _WINDOWS[:2]]
    sizes = [size for size in windows if isinstance(size, int)]
    if any(key in _WINDOWS for key in positions) and sizes and min(sizes) >= length:
        return True
    # From there on positions are stretched; beyond what the base promises that is no difference to it.
    stretched = _text(release).get("max_position_embeddings")
    promised = _text(base).get("max_position_embeddings")
    if after.get("rope_type") != "dynamic" or not isinstance(stretched, int):
        return False
    return length <= stretched < (promised if isinstance(promised, int) else stretched)


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def _same(one: Any, other: Any) -> bool:
    numbers = all(isinstance(value, int | float) for value in (one, other))
    return math.isclose(one, other, rel_tol=1e-6) if numbers else bool(one == other)


def _shown(value: Any) -> str:
    text = "(not set)" if value is None else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _told(base: Mapping[str, Any], release: Mapping[str, Any]) -> list[str]:
    told = []
    sides = [
        {**{new: side[old] for old, new in _SAME_NAME.items() if old in side}, **side}
        for side in (base, release)
    ]
    for key in ("dtype", "vocab_size", "tie_word_embeddings", "max_position_embeddings"):
        before, after = (side.get(key) for side in sides)
        if before != after and after is not None:
            told.append(f"{key} {_shown(before)} became {_shown(after)}")
    quantised = release.get("quantization_config")
    if isinstance(quantised, dict) and not base.get("quantization_config"):
        told.append(f"quantised by {quantised.get('quant_method', 'an unnamed method')}")
    return told


def _end_of_text(base: Checkpoint, release: Checkpoint) -> Iterator[Check]:
    before, after = _ends(base), _ends(release)
    own = _own_end(release)
    if not after or before == after:
        return
    words = f"generation ends at token {joined(sorted(after))}"
    if before:
        words += f" where the base's ends at {joined(sorted(before))}"
    if own is not None and own not in after and (not before or not before <= after):
        yield broken(STATIC, STOP, f"{words}, but its tokenizer's end of text is {own}")
    else:
        yield within(STATIC, STOP, words, 0.0)


def _ends(checkpoint: Checkpoint) -> set[int]:
    """Return the tokens that end a text: those of generation_config.json, else of config.json."""
    for document in (_document(checkpoint, "generation_config.json"), checkpoint.config):
        ends = document.get("eos_token_id")
        if isinstance(ends, int):
            return {ends}
        if isinstance(ends, list):
            return {end for end in ends if isinstance(end, int)}
    return set()


def _own_end(checkpoint: Checkpoint) -> int | None:
    token = _document(checkpoint, "tokenizer_config.json").get("eos_token")
    content = token.get("content") if isinstance(token, dict) else token
    added = _document(checkpoint, "tokenizer.json").get("added_tokens")
    listed = [item for item in added if isinstance(item, dict)] if isinstance(added, list) else []
    return next((int(item["id"]) for item in listed if item.get("content") == content), None)


def _document(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    text = checkpoint.folder.document(name)
    try:
        return {} if text is None else json_object(text, name)
    except BadInput:
        return {}  # said where the tokenizer is looked at
