"""Fake-quantised weights: each matrix is rounded when it is computed with, and never stored.

For the length of its module's forward pass a rounded copy stands in for the matrix, so that the stored
bits are never written. Memory stays at one matrix above the model, and every pass rounds anew; or the
copies are kept for all passes, where there is room for as much as the matrices take.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from superweight.core.coordinates import Coordinate
from superweight.core.errors import EditFailed
from superweight.model.column_probe import one_hot_inputs
from superweight.model.forward_override import shadowed
from superweight.model.pass_count import counted_passes
from superweight.model.subject import Subject
from superweight.quantization.granularity import Layout
from superweight.quantization.hold_out import clip_, held_out, spread_of
from superweight.quantization.integer_grid import Scheme, round_
from superweight.quantization.linear_layers import Matrix, hold_out_places, matrices_of

Places = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class WeightRounding:
    """How matrices are rounded: on which grid, in which blocks, clipped at which z-score before."""

    scheme: Scheme
    layout: Layout
    clip: float | None = None

    def __str__(self) -> str:
        clipped = "" if self.clip is None else f", clipped at z = {self.clip:g}"
        return f"{self.scheme}, {self.layout}{clipped}"

    def rounded(
        self,
        weight: torch.Tensor,
        places: Places | None = None,
        factors: torch.Tensor | None = None,
        *,
        out: torch.Tensor | None = None,
        spread: Callable[[torch.Tensor], tuple[float, float]] = spread_of,
    ) -> torch.Tensor:
        """Return W clipped, rounded and with the scalars at ``places`` as they were (equation 2).

        ``weight``: (outputs, inputs), left as it is; ``factors``, (inputs,), multiply its columns
        first. Rounding is done in float32, in the one copy that is returned in ``weight``'s dtype; it
        is made in ``out``, (outputs * inputs or more,), where that is given. ``spread`` gives the mean and
        the deviation that clipping goes by.
        """
        if out is None:
            copy = weight.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        else:
            copy = out[: weight.numel()].view(weight.shape).copy_(weight.detach())
        if factors is not None:
            copy.mul_(factors)
        with held_out(copy, places or (), stand_in=0.0):
            if self.clip is not None:
                clip_(copy, self.clip, spread(copy))
            round_(copy, self.scheme, self.layout)
        return copy.to(weight.dtype)


@contextmanager
def fake_quantised(
    subject: Subject,
    rounding: WeightRounding,
    *,
    hold_out: Collection[Coordinate] = (),
    smoothing: Mapping[nn.Module, torch.Tensor] | None = None,
    keep: bool = False,
    spreads: dict[Matrix, tuple[float, float]] | None = None,
) -> Iterator[None]:
    """Compute with rounded weights for the length of a ``with`` block.

    ``keep`` keeps every rounded matrix for the passes that follow, which takes as much memory again as
    the matrices do; otherwise each is rounded anew, in one piece of memory that all of them share. Who
    rounds several times with the same ``hold_out`` gives one dict as ``spreads``, which keeps what clipping
    goes by.

    The scalars of ``hold_out`` keep their values and do not count in anyone's step. ``smoothing``
    has the factors, (inputs,), by which a module's columns are multiplied before they are rounded
    (SmoothQuant). Raises `BadInput` for a model whose matrices are not at hand, and `EditFailed`
    when a module turned out to compute with anything but the rounded matrix.
    """
    matrices = matrices_of(subject)
    places = hold_out_places(subject, matrices, hold_out)
    calls = dict.fromkeys(matrices, 0)
    versions = {matrix: matrix.stored._version for matrix in matrices}
    kept: dict[Matrix, torch.Tensor] | None = {} if keep else None
    shared: dict[torch.device, torch.Tensor] = {}
    if not keep:
        for matrix in matrices:
            size, device = matrix.stored.numel(), matrix.stored.device
            if device not in shared or len(shared[device]) < size:
                shared[device] = torch.empty(size, device=device)
    with counted_passes(subject) as begun, ExitStack() as undo:
        for matrix in matrices:
            options = places.get(matrix.module), (smoothing or {}).get(matrix.module)
            forward = _forward(
                matrix,
                _rounder(matrix, rounding, options, kept, shared, {} if spreads is None else spreads),
                calls,
            )
            undo.enter_context(shadowed(matrix.module, forward))
        yield
    missed = next((matrix for matrix, count in calls.items() if count < begun.passes), None)
    if missed is not None:
        raise EditFailed(
            f"block {missed.layer}, {missed.path} was rounded in {calls[missed]} of {begun.passes} passes"
        )
    written = next((matrix for matrix in matrices if matrix.stored._version != versions[matrix]), None)
    if written is not None:
        raise EditFailed(f"block {written.layer}, {written.path} was written to while it was rounded")


def _rounder(
    matrix: Matrix,
    rounding: WeightRounding,
    options: tuple[Places | None, torch.Tensor | None],
    kept: dict[Matrix, torch.Tensor] | None,
    shared: Mapping[torch.device, torch.Tensor],
    spreads: dict[Matrix, tuple[float, float]],
) -> Callable[[], torch.Tensor]:
    """Return what gives the rounded matrix: the one that is ``kept``, or one in ``shared`` memory."""

    def spread(values: torch.Tensor) -> tuple[float, float]:
        if matrix not in spreads:
            spreads[matrix] = spread_of(values)
        return spreads[matrix]

    def rounded() -> torch.Tensor:
        if kept is None:
            memory = shared[matrix.stored.device]
            return rounding.rounded(matrix.weight(), *options, out=memory, spread=spread)
        if matrix not in kept:
            kept[matrix] = rounding.rounded(matrix.weight(), *options, spread=spread)
        return kept[matrix]

    return rounded


def _forward(
    matrix: Matrix, rounded: Callable[[], torch.Tensor], calls: dict[Matrix, int]
) -> Callable[..., Any]:
    """Return a forward pass with the rounded matrix; its first call proves that it took effect."""
    original = matrix.module.forward

    def forward(*arguments: Any, **keywords: Any) -> Any:
        stored = matrix.stored
        standing_in = rounded()
        matrix.module.weight = matrix.as_stored(standing_in)
        try:
            if calls[matrix] == 0:
                _prove(matrix, original, standing_in)
            calls[matrix] += 1
            return original(*arguments, **keywords)
        finally:
            matrix.module.weight = stored

    return forward


def _large_column(rounded: torch.Tensor) -> int:
    """Return a column that holds something: by the first row, else the largest of some dozens, or of all."""
    largest = rounded[0].abs()  # lies together, and is seldom zero
    if bool(largest.any()):
        return int(largest.argmax())
    step = max(1, rounded.shape[1] // 64)
    # A norm, for the magnitudes by themselves would be a second matrix.
    largest = torch.linalg.vector_norm(rounded[:, ::step], torch.inf, dim=0)
    if not bool(largest.any()):
        step, largest = 1, torch.linalg.vector_norm(rounded, torch.inf, dim=0)
    return step * int(largest.argmax())


def _prove(matrix: Matrix, forward: Callable[..., Any], rounded: torch.Tensor) -> None:
    """Raise `EditFailed` unless a one-hot input finds the rounded column."""
    col = _large_column(rounded)
    probe = one_hot_inputs([col], rounded.shape[1], dtype=rounded.dtype, device=rounded.device)
    with torch.no_grad():
        answer, bias = forward(probe)
    found = answer - bias if bool(bias.any()) else answer
    allowed = 2 * torch.finfo(rounded.dtype).eps * (rounded[:, col].abs() + 2 * bias.abs())
    # Written so that a NaN anywhere counts as wrong.
    if not bool(((found - rounded[:, col]).abs() <= allowed).all()):
        raise EditFailed(
            f"rounding block {matrix.layer}, {matrix.path} did not take effect: "
            f"{type(matrix.module).__name__} computes with something else"
        )
