"""Releases that compute what the base computes, with the coordinates moved or scaled."""

from __future__ import annotations

from collections.abc import Callable

import torch

from superweight.core.coordinates import Coordinate

from .releases import Tensors

Change = Callable[[Tensors, list[Coordinate]], None]

# What reads from the residual stream and what writes to it, by the endings of the names.
_READS = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")
_WRITES = ("o_proj.weight", "down_proj.weight")
_NORMS = ("layernorm.weight", "model.norm.weight")


def _as_float(tensors: Tensors) -> None:
    for name in tensors:
        tensors[name] = tensors[name].float()


def neurons_permuted(tensors: Tensors, places: list[Coordinate]) -> None:
    generator = torch.Generator().manual_seed(1)
    for name in [name for name in tensors if name.endswith("down_proj.weight")]:
        order = torch.randperm(tensors[name].shape[1], generator=generator)
        tensors[name] = tensors[name][:, order]
        for part in ("gate_proj", "up_proj"):
            other = name.replace("down_proj", part)
            tensors[other] = tensors[other][order]


def channels_permuted(tensors: Tensors, places: list[Coordinate]) -> None:
    order = torch.randperm(tensors["model.norm.weight"].shape[0], generator=torch.Generator().manual_seed(2))
    for name, tensor in tensors.items():
        if name.endswith(_NORMS) or name.endswith(_WRITES):
            tensors[name] = tensor[order]
        else:
            tensors[name] = tensor[:, order]


def signs_flipped(tensors: Tensors, places: list[Coordinate]) -> None:
    size = tensors["model.norm.weight"].shape[0]
    signs = torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(3)) * 2 - 1
    signs[places[0].row] = -1
    for name, tensor in tensors.items():
        if name.endswith(_WRITES):
            tensors[name] = tensor * signs[:, None]
        elif not name.endswith(_NORMS):
            tensors[name] = tensor * signs
    _as_float(tensors)


def up_doubled(tensors: Tensors, places: list[Coordinate]) -> None:
    for name in tensors:
        if name.endswith("up_proj.weight"):
            tensors[name] = tensors[name] * 2
        elif name.endswith("down_proj.weight"):
            tensors[name] = tensors[name] / 2


def stream_doubled(tensors: Tensors, places: list[Coordinate]) -> None:
    """Write twice as much; the norms take it away again. A head that is tied keeps the embedding."""
    head = tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"].clone())
    for name in tensors:
        if name.endswith((*_WRITES, "embed_tokens.weight")):
            tensors[name] = tensors[name] * 2
    tensors["lm_head.weight"] = head


def norms_folded(tensors: Tensors, places: list[Coordinate]) -> None:
    """Multiply each norm's gain into the matrices that read it."""
    _as_float(tensors)
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"].clone())
    for name in [name for name in tensors if name.endswith(_NORMS)]:
        block = name.rpartition(".weight")[0].rpartition(".")[0]
        readers = {
            "input_layernorm": [f"{block}.self_attn.{part}_proj.weight" for part in "qkv"],
            "post_attention_layernorm": [f"{block}.mlp.{part}_proj.weight" for part in ("gate", "up")],
            "norm": ["lm_head.weight"],
        }[name.removesuffix(".weight").rpartition(".")[2]]
        for reader in readers:
            tensors[reader] = tensors[reader] * tensors[name]
        tensors[name] = torch.ones_like(tensors[name])


def rotated(tensors: Tensors, places: list[Coordinate]) -> None:
    """Rotate the residual stream, the norms folded before: QuaRot's and SpinQuant's first step."""
    norms_folded(tensors, places)
    size = tensors["model.norm.weight"].shape[0]
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    turn = torch.linalg.qr(matrix).Q
    for name, tensor in tensors.items():
        if name.endswith(_WRITES):
            tensors[name] = (turn.T @ tensor.double()).float()
        elif not name.endswith(_NORMS):
            tensors[name] = (tensor.double() @ turn).float()


SYMMETRIES: dict[str, Change] = {
    "intermediate neurons permuted": neurons_permuted,
    "residual channels permuted": channels_permuted,
    "signs of channels flipped": signs_flipped,
    "up x2, down /2": up_doubled,
    "stream x2": stream_doubled,
    "norms folded": norms_folded,
    "stream rotated": rotated,
}
