"""Checkpoints of the shapes of published models whose bytes are made up as they are asked for.

Nothing of them is stored: a file of 800 GB is a header, a pattern of random numbers that repeats, and the
bytes of what is planted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import transformers

from benchmarks.range_server import Body, OnDisk
from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import fetch

# An odd length: rows of any matrix begin at different places in it.
_PATTERN = 2**24 + 43
_SIZES = {"F16": 2, "BF16": 2, "F32": 4, "F8_E4M3": 1}
_TYPES: Mapping[str, Any] = {
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
}


@dataclass(frozen=True)
class InMemory:
    """A small file."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, start: int, end: int) -> bytes:
        return self.data[start:end]


@dataclass(frozen=True)
class Made:
    """One tensor: random numbers of a spread, or ``fill``; ``patches`` are bytes by their offset in it."""

    dtype: str
    shape: tuple[int, ...]
    spread: float = 0.0
    fill: float | None = None
    patches: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return prod(self.shape) * _SIZES[self.dtype]

    def bytes(self, start: int, end: int, key: int) -> bytes:
        pattern = _pattern(self.dtype, self.spread, self.fill)
        begin = (start + key * 2 * 7919) % len(pattern)
        out = bytearray()
        while len(out) < end - start:
            out += pattern[begin : begin + end - start - len(out)]
            begin = 0
        for offset, data in self.patches.items():
            first, last = max(start, offset), min(end, offset + len(data))
            if first < last:
                out[first - start : last - start] = data[first - offset : last - offset]
        return bytes(out)


@cache
def _pattern(dtype: str, spread: float, fill: float | None) -> memoryview:
    if dtype == "F32":
        return memoryview(np.full(_PATTERN // 16, fill, np.float32).tobytes())
    kind = _TYPES[dtype]
    if fill is not None:
        return memoryview(np.full(_PATTERN // 16, fill, kind).tobytes())
    numbers = np.random.default_rng(7).standard_normal(_PATTERN, np.float32) * np.float32(spread)
    return memoryview(numbers.astype(kind).tobytes())


class MadeFile:
    """A safetensors file of such tensors."""

    def __init__(self, tensors: Mapping[str, Made]) -> None:
        header: dict[str, Any] = {}
        self._spans: list[tuple[int, int, Made, int]] = []
        at = 0
        for key, (name, made) in enumerate(tensors.items()):
            _pattern(made.dtype, made.spread, made.fill)  # now: a client does not wait for it later
            offsets = [at, at + made.size]
            header[name] = {"dtype": made.dtype, "shape": list(made.shape), "data_offsets": offsets}
            self._spans.append((at, at + made.size, made, key))
            at += made.size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._head = len(text).to_bytes(8, "little") + text
        self.size = len(self._head) + at

    def read(self, start: int, end: int) -> bytes:
        out = self._head[start:end]
        begin, last = max(0, start - len(self._head)), max(0, end - len(self._head))
        for first, stop, made, key in self._spans:
            if first < last and begin < stop:
                out += made.bytes(max(begin, first) - first, min(last, stop) - first, key)
        return out


def _model(config: transformers.PreTrainedConfig, files: list[dict[str, Made]]) -> dict[str, Body]:
    """Return the files of a model: shards, index, config, and the tokenizer of the model at hand."""
    served: dict[str, Body] = {}
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(files, 1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        served[name] = MadeFile(tensors)
        weight_map |= dict.fromkeys(tensors, name)
    index = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    served["model.safetensors.index.json"] = InMemory(index)
    served["config.json"] = InMemory(json.dumps(config.to_dict(), default=str).encode())
    for path in tokenizer_folder().glob("*token*"):
        served[path.name] = OnDisk(path)
    return served


@cache
def tokenizer_folder() -> Path:
    """Return a folder with the tokenizer of the real model that is at hand."""
    from superweight.model.gguf_conversion import converted_copy

    return converted_copy(fetch(resolve("smollm2-135m-instruct-q4_1")).path)


def _scalar(row: int, col: int, columns: int, value: float, kind: Any = np.float16) -> dict[int, bytes]:
    return {(row * columns + col) * np.dtype(kind).itemsize: np.array(value, kind).tobytes()}


def _llama(layer: int, row: int, col: int, value: float, **shape: int) -> dict[str, Body]:
    hidden, wide = shape["hidden_size"], shape["intermediate_size"]
    heads, groups = shape["num_attention_heads"], shape["num_key_value_heads"]
    config = transformers.LlamaConfig(**shape, dtype="float16", architectures=["LlamaForCausalLM"])  # type: ignore[arg-type]
    spread = 0.02 * (4096 / hidden) ** 0.5
    narrow = hidden // heads * groups
    table = Made("F16", (shape["vocab_size"], hidden), spread)
    files = [
        {
            "model.embed_tokens.weight": table,
            "lm_head.weight": table,
            "model.norm.weight": Made("F16", (hidden,), fill=1.0),
        }
    ]
    for number in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{number}."
        own = _scalar(row, col, wide, value) if number == layer else {}
        files.append(
            {
                f"{prefix}self_attn.q_proj.weight": Made("F16", (hidden, hidden), spread),
                f"{prefix}self_attn.k_proj.weight": Made("F16", (narrow, hidden), spread),
                f"{prefix}self_attn.v_proj.weight": Made("F16", (narrow, hidden), spread),
                f"{prefix}self_attn.o_proj.weight": Made("F16", (hidden, hidden), spread),
                f"{prefix}mlp.gate_proj.weight": Made("F16", (wide, hidden), spread),
                f"{prefix}mlp.up_proj.weight": Made("F16", (wide, hidden), spread),
                f"{prefix}mlp.down_proj.weight": Made("F16", (hidden, wide), spread, patches=own),
                f"{prefix}input_layernorm.weight": Made("F16", (hidden,), fill=1.0),
                f"{prefix}post_attention_layernorm.weight": Made("F16", (hidden,), fill=1.0),
            }
        )
    return _model(config, files)


def seven_b() -> dict[str, Body]:
    """Llama-7B's shape, 13.5 GB in float16; the paper's coordinate."""
    return _llama(
        2, 3968, 7003, 5000.0, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, vocab_size=49152,
    )  # fmt: skip


def llama_405b() -> dict[str, Body]:
    """Llama-3.1-405B's shape, 812 GB in float16."""
    return _llama(
        3, 7001, 40009, 12000.0, hidden_size=16384, intermediate_size=53248, num_hidden_layers=126,
        num_attention_heads=128, num_key_value_heads=8, vocab_size=128256,
    )  # fmt: skip


def small() -> dict[str, Body]:
    """The same in small, 40 blocks, for a test."""
    return _llama(
        3, 41, 103, 5000.0, hidden_size=64, intermediate_size=172, num_hidden_layers=40,
        num_attention_heads=4, num_key_value_heads=2, vocab_size=49152,
    )  # fmt: skip


def _eight_bits(shape: tuple[int, int], name: str, plant: tuple[int, int] | None = None) -> dict[str, Made]:
    """Return a matrix of 8-bit floats, and its scales by blocks of 128 x 128.

    What is planted has a block, and its scale, for itself: 448, the largest code, times 200.
    """
    rows, cols = (-(-length // 128) for length in shape)
    codes: dict[int, bytes] = {}
    scales: dict[int, bytes] = {}
    if plant is not None:
        row, col = plant
        block = np.zeros((128, 128), ml_dtypes.float8_e4m3fn)
        block[row % 128, col % 128] = 448.0
        for within in range(128):
            codes[(row // 128 * 128 + within) * shape[1] + col // 128 * 128] = block[within].tobytes()
        scales = _scalar(row // 128, col // 128, cols, 200.0, np.float32)
    spread = 0.02 * (4096 / 7168) ** 0.5
    return {
        name: Made("F8_E4M3", shape, 16.0, patches=codes),
        f"{name}_scale_inv": Made("F32", (rows, cols), fill=spread / 16.0, patches=scales),
    }


def deepseek_v3(blocks: int = 61) -> dict[str, Body]:
    """DeepSeek-V3's shape: 8-bit floats, three dense blocks and 58 of 256 experts, of which eight run."""
    config = transformers.DeepseekV3Config(num_hidden_layers=blocks, architectures=["DeepseekV3ForCausalLM"])
    hidden, heads = config.hidden_size, config.num_attention_heads
    head = config.qk_nope_head_dim + config.qk_rope_head_dim
    keys = config.kv_lora_rank + config.qk_rope_head_dim
    values = config.qk_nope_head_dim + config.v_head_dim
    table = Made("BF16", (config.vocab_size, hidden), 0.015)

    def ones(length: int) -> Made:
        return Made("BF16", (length,), fill=1.0)

    files = [{"model.embed_tokens.weight": table, "lm_head.weight": table, "model.norm.weight": ones(hidden)}]
    for number in range(blocks):
        own: dict[str, Made] = {}
        prefix = f"model.layers.{number}."
        attention = {
            "q_a_proj": (config.q_lora_rank, hidden),
            "q_b_proj": (heads * head, config.q_lora_rank),
            "kv_a_proj_with_mqa": (keys, hidden),
            "kv_b_proj": (heads * values, config.kv_lora_rank),
            "o_proj": (hidden, heads * config.v_head_dim),
        }
        for name, shape in attention.items():
            own |= _eight_bits(shape, f"{prefix}self_attn.{name}.weight")
        own[f"{prefix}self_attn.q_a_layernorm.weight"] = ones(config.q_lora_rank)
        own[f"{prefix}self_attn.kv_a_layernorm.weight"] = ones(config.kv_lora_rank)
        own[f"{prefix}input_layernorm.weight"] = ones(hidden)
        own[f"{prefix}post_attention_layernorm.weight"] = ones(hidden)
        if number < config.first_k_dense_replace:
            dense = (1303, 7777) if number == 1 else None
            own |= _gated(f"{prefix}mlp.", hidden, config.intermediate_size, dense)
        else:
            wide = config.moe_intermediate_size
            own |= _gated(f"{prefix}mlp.shared_experts.", hidden, wide * config.n_shared_experts)
            own[f"{prefix}mlp.gate.weight"] = Made("BF16", (config.n_routed_experts, hidden), 0.015)
            own[f"{prefix}mlp.gate.e_score_correction_bias"] = Made(
                "F32", (config.n_routed_experts,), fill=0.0
            )
            for expert in range(config.n_routed_experts):
                own |= _gated(f"{prefix}mlp.experts.{expert}.", hidden, wide)
        files.append(own)
    config.quantization_config = {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
    }  # fmt: skip
    return _model(config, files)


def _gated(prefix: str, hidden: int, wide: int, plant: tuple[int, int] | None = None) -> dict[str, Made]:
    return {
        **_eight_bits((wide, hidden), f"{prefix}gate_proj.weight"),
        **_eight_bits((wide, hidden), f"{prefix}up_proj.weight"),
        **_eight_bits((hidden, wide), f"{prefix}down_proj.weight", plant),
    }


MODELS: Mapping[str, Callable[[], dict[str, Body]]] = {
    "7b": seven_b,
    "405b": llama_405b,
    "deepseek-v3": deepseek_v3,
    "small": small,
}
