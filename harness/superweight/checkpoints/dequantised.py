"""Read a packed checkpoint as plain tensors, one by one, under their plain names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from superweight.checkpoints.forms import table as forms
from superweight.checkpoints.forms.form import Packed
from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.decoding import FLOAT8, INTEGERS, Floats
from superweight.checkpoints.tensors.scales import scale_name
from superweight.checkpoints.tensors.tensor_info import TensorInfo

_BLOCKS = "_blocks"
# What mlx-lm calls the experts of a block, all in one tensor.
_STACK = ".switch_mlp."
# What a module of a packed weight holds beside it that is no part of the packing.
_OWN = (".bias",)
_WHOLE_SCALES = ("_scale", "_scale_inv", "_zero_point", "_scales", "_global_scale")


@dataclass(frozen=True)
class PlainTensor:
    """One tensor of the plain checkpoint: ``kind`` is the form it is stored in, None where it is plain.

    ``inputs_first`` says that the model's own tensor is the transpose of what is read, ``expert`` which
    one of a stack is meant.
    """

    checkpoint: Checkpoint
    info: TensorInfo
    packed: Packed | None
    kind: str | None
    inputs_first: bool = False
    expert: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        whole = self.info.shape if self.packed is None else self.packed.shape
        return whole if self.expert is None else whole[1:]

    @property
    def is_plain(self) -> bool:
        """Whether the stored bytes are the numbers themselves, one after the other."""
        info = self.info
        unmixed = info.block_elements == 1 and info.dtype not in FLOAT8 and info.dtype not in INTEGERS
        return self.packed is None and self.kind is None and unmixed and self.checkpoint.merged is None

    def part(self, index: int) -> Floats:
        """Read the part of a tensor at one index into its first dimension."""
        chosen = () if self.expert is None else (self.expert,)
        if self.packed is None:
            return self.checkpoint.read(self.info.name, *chosen, index)
        if len(self.packed.shape) - len(chosen) > 2:
            return self.packed.matrix((*chosen, index))
        return self.packed.row(chosen, index)

    def read(self) -> Floats:
        """Read the numbers, (outputs, inputs) or behind the index of the expert."""
        chosen = () if self.expert is None else (self.expert,)
        if self.packed is None:
            return self.checkpoint.read(self.info.name, *chosen)
        counts = self.packed.shape[:-2]
        if len(counts) == len(chosen):
            return self.packed.matrix(chosen)
        whole = np.empty(self.packed.shape, np.float32)
        for place in product(*map(range, counts)):
            whole[place] = self.packed.matrix(place)
        return whole


def plain_tensors(checkpoint: Checkpoint) -> dict[str, PlainTensor]:
    """Return what a checkpoint holds by the names that its unpacked form has.

    Scales, zero points and all else that belongs to a packing are left out. Raises `BadInput` for
    tensors that are packed in a way that is not read.
    """
    found: dict[str, PlainTensor] = {}
    of_a_packing: set[str] = set()
    inside = _by_module(checkpoint.files)
    for name in checkpoint.files:
        suffix = _suffix(name)
        stem = name.removesuffix(suffix)
        info = checkpoint.info(name)
        packed = forms.find(checkpoint, name, suffix) if suffix else None
        kind = packed.kind if packed is not None else _scaled(checkpoint, info)
        fused = suffix == _BLOCKS
        if kind is not None:
            of_a_packing |= set(_beside(name, stem, inside, fused=fused))
        plain = name if packed is None else stem if fused else f"{stem}.weight"
        if checkpoint.merged is not None:
            packed = checkpoint.merged(name, info.shape if packed is None else packed.shape, packed)
            kind = kind if packed is None else packed.kind
        found |= _apart(plain, PlainTensor(checkpoint, info, packed, kind, inputs_first=fused))
    return {name: tensor for name, tensor in found.items() if name not in of_a_packing}


def kinds(tensors: Mapping[str, PlainTensor]) -> str | None:
    """Return the forms of all packed tensors in one line, None where all are plain."""
    seen = sorted({tensor.kind for tensor in tensors.values() if tensor.kind is not None})
    return ", ".join(seen) or None


def _apart(name: str, tensor: PlainTensor) -> dict[str, PlainTensor]:
    """Return a tensor by its name; a stack of experts of mlx-lm by the names of each."""
    if _STACK not in name or len(tensor.shape) != 3:
        return {name: tensor}
    return {
        name.replace(_STACK, f".experts.{expert}."): replace(tensor, expert=expert)
        for expert in range(tensor.shape[0])
    }


def _suffix(name: str) -> str:
    return next((end for end in (*forms.SUFFIXES, forms.PLAIN) if name.endswith(end)), "")


def _scaled(checkpoint: Checkpoint, info: TensorInfo) -> str | None:
    """Return the type of a tensor that a scale beside it belongs to."""
    if info.dtype not in (*INTEGERS, *FLOAT8) or scale_name(info, checkpoint.files) is None:
        return None
    return info.dtype


def _by_module(names: Collection[str]) -> dict[str, list[str]]:
    inside: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts)):
            inside.setdefault(".".join(parts[:end]), []).append(name)
    return inside


def _beside(name: str, stem: str, inside: Mapping[str, list[str]], *, fused: bool) -> Iterator[str]:
    """Return the tensors that belong to the packing of ``name``."""
    module = stem.removesuffix(".weight") if not fused else stem
    yield from (module + end for end in (*_WHOLE_SCALES, _BLOCKS) if module + end != name)
    yield from (
        other
        for other in inside.get(module, ())
        if other != name and other not in [module + end for end in _OWN]
    )
