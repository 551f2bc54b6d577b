"""Releases made from a base: faithful ones, and ones that damage its super weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from superweight.core.coordinates import Coordinate

Tensors = dict[str, torch.Tensor]


def matrices(tensors: Tensors) -> list[str]:
    """Return the names of the weights that quantisers round: those of the linear maps."""
    return [name for name in tensors if name.endswith("_proj.weight")]


def cast(dtype: torch.dtype) -> Callable[[Tensors, list[Coordinate]], None]:
    def change(tensors: Tensors, places: list[Coordinate]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(dtype)

    return change


def unchanged(tensors: Tensors, places: list[Coordinate]) -> None:
    """Leave every tensor as it is."""


def rounded(tensor: torch.Tensor, levels: int, *, by_row: bool) -> torch.Tensor:
    """Round to the nearest of ``levels`` steps either side of zero, one scale a row or one in all."""
    largest = tensor.abs().amax(1, keepdim=True) if by_row else tensor.abs().max()
    step = largest.clamp_min(1e-12) / levels
    return (tensor / step).round() * step


def int8_by_channel(tensors: Tensors, places: list[Coordinate]) -> None:
    for name in matrices(tensors):
        tensors[name] = rounded(tensors[name], 127, by_row=True)


def int4_by_tensor(tensors: Tensors, places: list[Coordinate]) -> None:
    for name in matrices(tensors):
        tensors[name] = rounded(tensors[name], 7, by_row=False)


def clipped(*, restored: bool) -> Callable[[Tensors, list[Coordinate]], None]:
    def change(tensors: Tensors, places: list[Coordinate]) -> None:
        kept = [(place, value(tensors, place)) for place in places]
        for name in matrices(tensors):
            limit = 9 * float(tensors[name].std())
            tensors[name] = rounded(tensors[name].clamp(-limit, limit), 127, by_row=False)
        for place, was in kept if restored else ():
            tensors[projection(place)][place.row, place.col] = was

    return change


def projection(place: Coordinate) -> str:
    return f"model.layers.{place.layer}.mlp.down_proj.weight"


def value(tensors: Tensors, place: Coordinate) -> float:
    return float(tensors[projection(place)][place.row, place.col])


def scaled(factor: float) -> Callable[[Tensors, list[Coordinate]], None]:
    def change(tensors: Tensors, places: list[Coordinate]) -> None:
        for place in places:
            tensors[projection(place)][place.row, place.col] *= factor

    return change


def columns_moved(tensors: Tensors, places: list[Coordinate]) -> None:
    """Move the neurons of one matrix, as a converter does that forgets the inverse in the others."""
    name = projection(places[0])
    tensors[name] = tensors[name].roll(1, dims=1)


def random_weights(tensors: Tensors, places: list[Coordinate]) -> None:
    generator = torch.Generator().manual_seed(5)
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            tensors[name] = torch.randn(tensor.shape, generator=generator) * 0.02


def make(
    base: Path, target: Path, change: Callable[[Tensors, list[Coordinate]], None], places: list[Coordinate]
) -> Path:
    """Write the release that ``change`` makes of the base's tensors."""
    target.mkdir()
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, target)
    tensors = {name: tensor.clone() for name, tensor in load_file(base / "model.safetensors").items()}
    change(tensors, places)
    save_file(
        {name: t.contiguous() for name, t in tensors.items()}, target / "model.safetensors", {"format": "pt"}
    )
    return target


def sharded(base: Path, target: Path, *, swapped: bool) -> Path:
    """Write the base as two shards; ``swapped`` gives each the other's name."""
    target.mkdir()
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, target)
    tensors = load_file(base / "model.safetensors")
    names = sorted(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {name: file for half, file in zip(halves, files, strict=True) for name in half}
    for half, file in zip(halves, reversed(files) if swapped else files, strict=True):
        save_file({name: tensors[name] for name in half}, target / file, {"format": "pt"})
    document = {"metadata": {}, "weight_map": index}
    (target / "model.safetensors.index.json").write_text(json.dumps(document))
    return target


KEPT = {
    "copy": unchanged,
    "bfloat16 cast": cast(torch.bfloat16),
    "float16 cast": cast(torch.float16),
    "int8 per channel": int8_by_channel,
}
# The beginning of the first reason, beside what makes the damage.
DAMAGED = {
    "super weight pruned": (scaled(0.0), "super weight {place} was pruned: from"),
    "super weight sign-flipped": (scaled(-1.0), "super weight {place} changed its sign: from"),
    "super weight halved": (scaled(0.5), "super weight {place} went from"),
    "int4, one block a tensor": (int4_by_tensor, ""),
    "clipped at z = 9": (clipped(restored=False), "super weight {place} went from"),
    "columns of one matrix moved": (columns_moved, ""),
    "random weights of the same shape": (random_weights, ""),
}
