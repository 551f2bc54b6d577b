"""Read single numbers of a linear module's matrix while it trains, whichever rank holds them.

A plain parameter is indexed. FSDP2 leaves a DTensor, FSDP1 a flat parameter of several modules, DeepSpeed
ZeRO-3 a flat part of each parameter: of these the rank that holds a number tells it to the others, in one
message for all that is read. Nothing is gathered that is as large as a matrix. What LoRA adds is reckoned
from the row and the column that meet in the number.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from superweight.core.errors import BadInput

_Key = TypeVar("_Key", bound=Hashable)
_WRAPPED = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod")


@dataclass(frozen=True)
class Entry:
    """One number of a live model: W[row, col] of a linear module, as it computes with it."""

    module: nn.Module
    row: int
    col: int


@dataclass(frozen=True)
class _Read:
    """One stored number: where it lies in a module's own weight, as that is stored."""

    module: nn.Module
    index: tuple[int, int]


# A number is a sum of products: the weight itself, and for an adapter as many as it has ranks.
_Sum = Sequence[tuple[float, tuple[_Read, ...]]]


@dataclass(frozen=True)
class _Held:
    """What this rank holds of a weight: ``held`` returns the numbers that it has, by position."""

    shape: tuple[int, ...]
    whole: bool
    held: Callable[[Sequence[tuple[int, int]]], dict[int, float]]


def read_entries(model: nn.Module, entries: Mapping[_Key, Entry]) -> dict[_Key, float]:
    """Return the numbers of ``entries``; where a weight is sharded, every rank must ask for the same.

    >>> linear = nn.Linear(3, 2, bias=False)
    >>> read_entries(linear, {"first": Entry(linear, 0, 0)})["first"] == float(linear.weight[0, 0])
    True

    Raises `BadInput` for an index outside the matrix, a quantised weight, and an adapter that is no LoRA.
    """
    sums = {key: _sum(entry) for key, entry in entries.items()}
    wanted = list(dict.fromkeys(read for terms in sums.values() for _, reads in terms for read in reads))
    stored = _stored(wanted, _flat_parts(model))
    found = {}
    for key, terms in sums.items():
        total = 0.0
        for factor, reads in terms:
            product = factor
            for read in reads:
                product *= stored[read]
            total += product
        found[key] = total
    return found


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside what FSDP1, activation checkpointing and torch.compile put around it."""
    while inner := next((module._modules[name] for name in _WRAPPED if name in module._modules), None):
        module = inner
    return module


def plain_path(path: str) -> str:
    """Return a module's path without those wrappers.

    >>> plain_path("model.layers.1._fsdp_wrapped_module.mlp")
    'model.layers.1.mlp'
    """
    return ".".join(part for part in path.split(".") if part not in _WRAPPED)


def _sum(entry: Entry) -> _Sum:
    adapted: Any = unwrapped(entry.module)
    inner: Any = unwrapped(adapted.get_base_layer()) if hasattr(adapted, "get_base_layer") else adapted
    transposed = type(inner).__name__ == "Conv1D"
    index = (entry.col, entry.row) if transposed else (entry.row, entry.col)
    terms: list[tuple[float, tuple[_Read, ...]]] = [(1.0, (_Read(inner, index),))]
    if inner is adapted or adapted.merged or adapted.disable_adapters:
        return terms
    if not hasattr(adapted, "lora_A") or any(adapted.use_dora.get(name) for name in adapted.active_adapters):
        kind = "DoRA" if hasattr(adapted, "lora_A") else type(adapted).__name__
        raise BadInput(f"what the adapter {kind} adds to a number is not known here; LoRA's is")
    for name in adapted.active_adapters:
        if name in adapted.lora_A:
            down, up = unwrapped(adapted.lora_A[name]), unwrapped(adapted.lora_B[name])
            terms += [
                (adapted.scaling[name], (_Read(up, (entry.row, rank)), _Read(down, (rank, entry.col))))
                for rank in range(adapted.r[name])
            ]
    return terms


def _stored(wanted: Sequence[_Read], flat: Mapping[nn.Module, _Held]) -> dict[_Read, float]:
    by_module: dict[nn.Module, list[int]] = {}
    for number, read in enumerate(wanted):
        by_module.setdefault(read.module, []).append(number)
    found: dict[int, float] = {}
    everywhere = True
    for module, numbers in by_module.items():
        part = flat.get(module) or _part(module)
        indices = [wanted[number].index for number in numbers]
        for index in indices:
            _require_within(index, part.shape)
        found |= {numbers[at]: value for at, value in part.held(indices).items()}
        everywhere &= part.whole
    if not everywhere:
        told: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(told, found)
        found = {number: value for one in told for number, value in one.items()}
    return {read: found[number] for number, read in enumerate(wanted)}


def _require_within(index: tuple[int, int], shape: Sequence[int]) -> None:
    if len(shape) != 2 or any(not 0 <= at < length for at, length in zip(index, shape, strict=True)):
        raise BadInput(f"index {list(index)} lies outside a weight of shape {list(shape)}")


def _part(module: nn.Module) -> _Held:
    weight: Any = module.weight
    if hasattr(weight, "ds_tensor"):
        return _of_zero3(weight)
    if not weight.is_floating_point():
        raise BadInput(f"the weight is quantised ({weight.dtype}), and does not train; load it unquantised")
    if hasattr(weight, "to_local"):
        return _of_dtensor(weight)
    return _Held(tuple(weight.shape), True, lambda indices: _picked(weight, indices))


def _picked(matrix: torch.Tensor, indices: Sequence[tuple[int, int]]) -> dict[int, float]:
    rows, cols = zip(*indices, strict=True)
    return dict(enumerate(matrix.detach()[list(rows), list(cols)].tolist()))


def _of_dtensor(weight: Any) -> _Held:
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(weight.shape, weight.device_mesh, weight.placements)

    def held(indices: Sequence[tuple[int, int]]) -> dict[int, float]:
        own = [(row - offset[0], col - offset[1]) for row, col in indices]
        here = [at for at, (row, col) in enumerate(own) if 0 <= row < shape[0] and 0 <= col < shape[1]]
        if not here:
            return {}
        picked = _picked(weight.to_local(), [own[at] for at in here])
        return {at: picked[number] for number, at in enumerate(here)}

    return _Held(tuple(weight.shape), False, held)


def _of_zero3(weight: Any) -> _Held:
    part = weight.ds_tensor
    begin = part.ds_numel * dist.get_rank(weight.ds_process_group)
    return _of_flat(part, tuple(weight.ds_shape), begin, part.numel(), 0)


def _of_flat(part: torch.Tensor, shape: tuple[int, ...], begin: int, count: int, at: int) -> _Held:
    """Describe ``count`` numbers of a matrix, from ``begin`` on, that lie from ``at`` on in a flat tensor."""

    def held(indices: Sequence[tuple[int, int]]) -> dict[int, float]:
        places = [row * shape[1] + col - begin for row, col in indices]
        here = [number for number, place in enumerate(places) if 0 <= place < count]
        values = part.detach()[[at + places[number] for number in here]].tolist() if here else []
        return dict(zip(here, values, strict=True))

    return _Held(shape, False, held)


def _flat_parts(model: nn.Module) -> dict[nn.Module, _Held]:
    """Return what FSDP1's flat parameters hold of each module's weight."""
    if not dist.is_available() or not dist.is_initialized():
        return {}
    from torch.distributed.fsdp import FullyShardedDataParallel

    found: dict[nn.Module, _Held] = {}
    for unit in FullyShardedDataParallel.fsdp_modules(model):
        handle: Any = unit._handle
        if handle is None:
            continue
        parameter = handle.flat_param
        rows = zip(parameter._param_infos, parameter._shapes, parameter._shard_param_infos, strict=True)
        for info, shape, shard in rows:
            if info.param_name != "weight":
                continue
            if shard.in_shard:
                begin, count, at = shard.intra_param_start_idx, shard.numel_in_shard, shard.offset_in_shard
            else:
                begin, count, at = 0, 0, 0
            local = getattr(parameter, "_local_shard", parameter)
            found[info.module] = _of_flat(local, tuple(shape), begin, count, at)
    return found
