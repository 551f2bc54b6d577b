"""Checkpoints on disk: copies of the tiny ones, changed, and files written byte by byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from superweight.core.resources import fixtures_directory

CHECKPOINTS = fixtures_directory() / "checkpoints"
_TYPES = {"<f4": "F32", "<f2": "F16", "<f8": "F64", "|i1": "I8", "<i4": "I32", "|u1": "U8"}


def copy_checkpoint(name: str, target: Path) -> Path:
    """Copy a tiny checkpoint that ships with the harness; return where."""
    return Path(shutil.copytree(CHECKPOINTS / name, target))


def rewrite(
    path: Path, change: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor] | object]
) -> None:
    """Change the tensors of a folder: in place, or by returning others."""
    file = path / "model.safetensors"
    tensors = load_file(file)
    changed = change(tensors)
    save_file(dict(changed) if isinstance(changed, Mapping) else tensors, file, {"format": "pt"})


def configure(path: Path, **settings: Any) -> None:
    """Change settings in the config.json of a folder."""
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **settings}))


def write_safetensors(path: Path, tensors: Mapping[str, Any], **metadata: str) -> Path:
    """Write a safetensors file, byte by byte: arrays, or (dtype, shape, bytes) where numpy has no type."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    body = b""
    for name, tensor in tensors.items():
        stored = tensor
        if isinstance(tensor, np.ndarray):
            stored = _TYPES[tensor.dtype.str], tensor.shape, tensor.tobytes()
        dtype, shape, data = stored
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def llama_writer(path: Path, tokens: list[str], **shape: int) -> gguf.GGUFWriter:
    """Begin a GGUF file of a Llama with a byte-level vocabulary; tensors are added by the caller."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(shape["blocks"])
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["hidden"])
    writer.add_feed_forward_length(shape["wide"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape["hidden"] // shape["heads"])
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    return writer


def finish_gguf(writer: gguf.GGUFWriter) -> None:
    """Write what a GGUF writer holds."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_small_gguf(path: Path) -> None:
    """Write a small random Llama as a GGUF file, vocabulary of bytes included."""
    hidden, wide, blocks = 64, 160, 4
    # A byte-level tokenizer writes a blank as \u0120.
    tokens = ["<s>", "</s>", "ab", "\u0120", *map(chr, range(ord("!"), ord("~") + 1))]
    numbers = np.random.default_rng(0)
    writer = llama_writer(path, tokens, blocks=blocks, context=256, hidden=hidden, wide=wide, heads=4)

    def matrix(*shape: int) -> np.ndarray:
        return numbers.normal(scale=0.02, size=shape).astype(np.float32)

    writer.add_tensor("token_embd.weight", matrix(len(tokens), hidden))
    writer.add_tensor("output.weight", matrix(len(tokens), hidden))
    writer.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
    for layer in range(blocks):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(hidden, hidden))
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(wide, hidden))
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", matrix(hidden, wide))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(hidden, np.float32))
    finish_gguf(writer)
