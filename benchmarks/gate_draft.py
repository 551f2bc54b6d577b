"""A release in the making: the base's tensors and documents, to be changed and written."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

BLOCKS, HIDDEN, HEADS, KEY_HEADS, HEAD_DIM = 30, 576, 9, 3, 64
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
READS = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")
WRITES = ("o_proj.weight", "down_proj.weight")
NORMS = ("layernorm.weight", NORM)
_DOCUMENTS = ("config.json", "tokenizer.json", "tokenizer_config.json")
_TEMPLATE = "chat_template.jinja"


@dataclass
class Draft:
    """What a release consists of. ``documents`` are its JSON files by name."""

    tensors: dict[str, torch.Tensor]
    documents: dict[str, dict[str, Any]]
    template: str
    lent: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    shards: int = 1

    def at(self, layer: int, part: str) -> str:
        """Return the name of a block's tensor."""
        return f"model.layers.{layer}.{part}.weight"

    def ending(self, *parts: str) -> list[str]:
        """Return the names that end in one of ``parts``."""
        return [name for name in self.tensors if name.endswith(parts)]

    @property
    def matrices(self) -> list[str]:
        """The names of what quantisers round."""
        return self.ending("_proj.weight")

    @property
    def config(self) -> dict[str, Any]:
        return self.documents["config.json"]

    def untie(self) -> torch.Tensor:
        """Store the head by itself, and return it."""
        self.config["tie_word_embeddings"] = False
        return self.tensors.setdefault(HEAD, self.tensors[EMBEDDING].clone())

    def cast(self, dtype: torch.dtype) -> None:
        self.tensors = {name: tensor.to(dtype) for name, tensor in self.tensors.items()}
        self.config["dtype"] = str(dtype).removeprefix("torch.")

    def write(self, target: Path) -> Path:
        """Write the release as a folder, and return it."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name, document in self.documents.items():
            (target / name).write_text(json.dumps(document), encoding="utf-8")
        if self.template:
            (target / _TEMPLATE).write_text(self.template, encoding="utf-8")
        names = sorted(self.tensors)
        parts = [names[start :: self.shards] for start in range(self.shards)]
        files = (
            ["model.safetensors"]
            if self.shards == 1
            else [f"model-{at:05}-of-{self.shards:05}.safetensors" for at in range(1, self.shards + 1)]
        )
        for file, part in zip(files, parts, strict=True):
            save_file(
                {name: self.tensors[name].contiguous() for name in part}, target / file, {"format": "pt"}
            )
        if self.shards > 1:
            placed = {name: file for file, part in zip(files, parts, strict=True) for name in part}
            index = {"metadata": {}, "weight_map": placed}
            (target / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        return target


def draft(folder: Path) -> Draft:
    """Read a folder as a draft that may be changed freely."""
    documents = {name: json.loads((folder / name).read_text(encoding="utf-8")) for name in _DOCUMENTS}
    template = (folder / _TEMPLATE).read_text(encoding="utf-8")
    return Draft(load_file(folder / "model.safetensors"), documents, template)
