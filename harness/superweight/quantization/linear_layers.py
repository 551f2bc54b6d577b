"""Find the linear matrices of a decoder's blocks that are rounded, and what each of them reads.

Embeddings and the head stay as they are, as is usual in post-training quantisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput
from superweight.model.subject import Subject

_NORM_DIMENSIONS = 1


@dataclass(frozen=True)
class Matrix:
    """One linear map of a block, Y = X Wᵀ; W: (outputs, inputs), whichever way round it is stored."""

    module: nn.Module
    layer: int
    path: str
    transposed: bool

    @property
    def stored(self) -> nn.Parameter:
        # That it is one was looked at when the matrices were listed.
        return cast(nn.Parameter, self.module.weight)

    def weight(self) -> torch.Tensor:
        """Return W as a view: (outputs, inputs)."""
        return self.stored.detach().T if self.transposed else self.stored.detach()

    def as_stored(self, matrix: torch.Tensor) -> nn.Parameter:
        """Return a (outputs, inputs) matrix as the module would store it."""
        return nn.Parameter(matrix.T if self.transposed else matrix, requires_grad=False)

    @property
    def inputs(self) -> int:
        return self.weight().shape[1]


def matrices_of(subject: Subject) -> tuple[Matrix, ...]:
    """Return every linear matrix of every block, in the order of the modules.

    Raises `BadInput` where a block computes with something else: quantised or offloaded weights,
    or experts in one 3-D parameter.
    """
    found = []
    for layer, block in enumerate(subject.architecture.blocks):
        for path, module in block.named_modules():
            place = f"block {layer}, {path}"
            if _is_linear(module):
                found.append(Matrix(module, layer, path, isinstance(module, Conv1D)))
                _refuse_unreadable(found[-1].module, place)
            elif any(parameter.ndim > 2 for parameter in module.parameters(recurse=False)):
                raise BadInput(
                    f"{place} keeps several matrices in one parameter, and only single linear maps are "
                    "rounded; give a model without mixtures of experts"
                )
    return tuple(found)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, Conv1D | nn.Linear) or hasattr(module, "in_features")


def _refuse_unreadable(module: nn.Module, place: str) -> None:
    weight = getattr(module, "weight", None)
    if type(weight) is not nn.Parameter or not weight.is_floating_point() or weight.itemsize == 1:
        raise BadInput(f"{place} ({type(module).__name__}) is quantised already; give the float model")
    if weight.is_meta:
        raise BadInput(f"{place} is offloaded, so its weight is not at hand; load the model without offload")


def hold_out_places(
    subject: Subject, matrices: Sequence[Matrix], coordinates: Iterable[Coordinate]
) -> dict[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """Return (rows, columns) of the coordinates that lie in each module.

    Raises `BadInput` for a coordinate that lies in none of ``matrices``.
    """
    known = {matrix.module for matrix in matrices}
    places: dict[nn.Module, list[tuple[int, int]]] = {}
    for coordinate in coordinates:
        module = subject.architecture.projection(coordinate).module
        if module not in known:
            raise BadInput(f"coordinate {coordinate} lies in no matrix that is rounded")
        places.setdefault(module, []).append((coordinate.row, coordinate.col))
    return {module: _columns(pairs) for module, pairs in places.items()}


def _columns(pairs: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    rows, cols = zip(*pairs, strict=True)
    return torch.tensor(rows), torch.tensor(cols)


@dataclass(frozen=True)
class Reading:
    """What one matrix reads: ``normed`` if its input comes straight out of a norm.

    Matrices with the same ``source`` read the same tensor.
    """

    matrix: Matrix
    normed: bool
    source: int


def readings_of(subject: Subject, matrices: Sequence[Matrix]) -> tuple[Reading, ...]:
    """Run one token through the model and see what each matrix reads."""
    tensors: list[torch.Tensor] = []  # kept alive, so that identity means the same tensor
    normed: set[int] = set()
    sources: dict[nn.Module, int] = {}

    def keep(tensor: torch.Tensor) -> int:
        for index, known in enumerate(tensors):
            if known is tensor:
                return index
        tensors.append(tensor)
        return len(tensors) - 1

    def after_norm(_: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            normed.add(keep(output))

    def before_matrix(module: nn.Module, arguments: Any) -> None:
        sources[module] = keep(arguments[0])

    with ExitStack() as hooks, torch.no_grad():
        for norm in _norms(subject):
            hooks.callback(norm.register_forward_hook(after_norm).remove)
        for matrix in matrices:
            hooks.callback(matrix.module.register_forward_pre_hook(before_matrix).remove)
        ids = torch.tensor([subject.encode("a")], device=subject.device)
        subject.model(input_ids=ids, use_cache=False)
    return tuple(
        Reading(matrix, sources[matrix.module] in normed, sources[matrix.module]) for matrix in matrices
    )


def _norms(subject: Subject) -> Iterator[nn.Module]:
    for block in subject.architecture.blocks:
        for module in block.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.ndim == _NORM_DIMENSIONS:
                yield module
