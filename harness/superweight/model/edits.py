"""Edits to a model that are always undone and always proven to have taken effect.

``with edited(subject, [Prune(...), Scale(...), PatchActivation(...)]):`` changes what the model
computes for the length of the block. A scalar is written where the module computes with the
weight it shows; where it does not (offloaded, quantised) the module's output is corrected
instead. Either way a one-hot probe through the module must then find the new value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import overload
from weakref import WeakKeyDictionary

import torch
from torch import nn

from superweight.core.coordinates import Coordinate, GainCoordinate
from superweight.core.errors import BadInput, EditFailed
from superweight.model.activation_patch import patch_stream
from superweight.model.gains import gains_of
from superweight.model.pass_count import counted_passes
from superweight.model.projections import Projection
from superweight.model.subject import Subject

# A corrected output is rounded twice, once by the module and once by the correction.
ROUNDINGS = 4.0

# Scalars that are probed in one batch, so that thousands of them do not take the memory of a model.
PROBED = 256


@dataclass(frozen=True)
class Scale:
    """Multiply one scalar by ``factor``: 0 prunes it, 1 leaves it as it is."""

    coordinate: Coordinate
    factor: float

    def __post_init__(self) -> None:
        if not abs(self.factor) < float("inf"):
            raise BadInput(f"cannot scale {self.coordinate} by {self.factor}; give a finite factor")


@dataclass(frozen=True)
class ScaleGain:
    """Multiply one gain of a norm behind an MLP by ``factor``: 0 prunes it, 1 leaves it as it is."""

    coordinate: GainCoordinate
    factor: float

    def __post_init__(self) -> None:
        if not abs(self.factor) < float("inf"):
            raise BadInput(f"cannot scale {self.coordinate} by {self.factor}; give a finite factor")


@overload
def Prune(coordinate: Coordinate) -> Scale: ...  # reads as one of the edits, and is one
@overload
def Prune(coordinate: GainCoordinate) -> ScaleGain: ...
def Prune(coordinate: Coordinate | GainCoordinate) -> Scale | ScaleGain:  # noqa: N802
    """Set one scalar, or one gain, to zero."""
    if isinstance(coordinate, GainCoordinate):
        return ScaleGain(coordinate, 0.0)
    return Scale(coordinate, 0.0)


@dataclass(frozen=True)
class PatchActivation:
    """Hold the residual stream after block ``layer`` at ``value`` for one token and channel.

    ``value`` is one number, or a tensor with one for each sequence of the batch: (sequences,).
    """

    layer: int
    token: int
    channel: int
    value: float | torch.Tensor = field(compare=False)


Edit = Scale | ScaleGain | PatchActivation

_ACTIVE: WeakKeyDictionary[nn.Module, list[Edit]] = WeakKeyDictionary()


def active_edits(subject: Subject) -> tuple[Edit, ...]:
    """Return the edits in force on a subject, the outermost first."""
    return tuple(_ACTIVE.get(subject.model, ()))


@contextmanager
def edited(subject: Subject, edits: Sequence[Edit], *, by_hook: bool = False) -> Iterator[None]:
    """Apply ``edits`` for the length of a ``with`` block and undo them bit for bit on every exit.

    Edits may be nested; the inner ones are undone first. ``by_hook`` corrects module outputs even
    where the weight could be written. Raises `BadInput` for a coordinate outside the model, and
    `EditFailed` when an edit did not take effect or could not be undone.
    """
    scales = [edit for edit in edits if isinstance(edit, Scale)]
    gains = [edit for edit in edits if isinstance(edit, ScaleGain)]
    patches = [edit for edit in edits if isinstance(edit, PatchActivation)]
    changed = [*(edit.coordinate for edit in scales), *(edit.coordinate for edit in gains)]
    if len(set(changed)) != len(changed):
        raise BadInput("a coordinate is scaled twice in one call; nest two calls instead")
    in_force = _ACTIVE.setdefault(subject.model, [])
    before = len(in_force)
    with ExitStack() as undo:
        undo.callback(lambda: in_force.__delitem__(slice(before, None)))
        scales.sort(key=lambda scale: scale.coordinate)
        for _, group in groupby(scales, key=_writer):
            together = list(group)
            for scale in together:
                # One for all of them; asked for each, as it refuses what lies outside.
                projection = subject.architecture.projection(scale.coordinate)
            undo.enter_context(_scaled(projection, together, by_hook=by_hook))
        for norm, factors in gain_factors(gains).items():
            undo.enter_context(gains_of(subject.architecture, *norm).scaled([factors]))
        for patch in patches:
            undo.enter_context(_patched(subject, patch))
        in_force.extend(edits)
        yield


def gain_factors(gains: Sequence[ScaleGain]) -> dict[tuple[int, str], dict[int, float]]:
    """Return the factors by norm, (layer, its path in the block), and channel."""
    norms: dict[tuple[int, str], dict[int, float]] = {}
    for edit in gains:
        place = edit.coordinate
        norms.setdefault((place.layer, place.norm), {})[place.channel] = edit.factor
    return norms


def _writer(scale: Scale) -> tuple[int, int | None]:
    return scale.coordinate.layer, scale.coordinate.expert


@contextmanager
def _scaled(projection: Projection, scales: Sequence[Scale], *, by_hook: bool) -> Iterator[None]:
    """Scale some scalars of one projection, and prove it on the way in and on the way out."""
    rows = torch.tensor([scale.coordinate.row for scale in scales])
    cols = torch.tensor([scale.coordinate.col for scale in scales])
    before = _probe(projection, rows, cols)
    factors = torch.tensor([scale.factor for scale in scales], dtype=before.dtype, device=before.device)
    through_hook = by_hook or not projection.writable
    if through_hook:
        # Y[:, row] changes by (factor - 1) · W[row, col] · X[:, col].
        change = projection.corrected(rows, cols, (factors - 1) * before)
    else:
        change = _written(projection, rows, cols, factors)
    with change:
        _prove(projection, scales, before, through_hook=through_hook)
        yield
    if not torch.equal(_probe(projection, rows, cols), before):
        raise EditFailed(
            f"undoing the edit of {scales[0].coordinate} did not bring back the value it had; "
            "what was measured after it does not count"
        )


def _probe(projection: Projection, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    """Return the scalars at (rows, cols) as the module computes with them: (scalars,)."""
    distinct, place = cols.unique(return_inverse=True)
    parts = [projection.probe(part) for part in distinct.split(PROBED)]
    answers = torch.cat(parts)
    return answers[place.to(answers.device), rows.to(answers.device)]


@contextmanager
def _written(
    projection: Projection,
    rows: torch.Tensor,
    cols: torch.Tensor,
    factors: torch.Tensor,
) -> Iterator[None]:
    weight = projection.weight()
    places = rows.to(weight.device), cols.to(weight.device)
    # The stored bits, not the probed values, are what is put back.
    stored = weight[places].clone()
    try:
        weight[places] = (stored * factors).to(weight.dtype)
        yield
    finally:
        weight[places] = stored


def _prove(
    projection: Projection, scales: Sequence[Scale], before: torch.Tensor, *, through_hook: bool
) -> None:
    """Raise `EditFailed` unless the module now computes with the scaled values."""
    rows = torch.tensor([scale.coordinate.row for scale in scales])
    cols = torch.tensor([scale.coordinate.col for scale in scales])
    after = _probe(projection, rows, cols)
    factors = torch.tensor([scale.factor for scale in scales], dtype=before.dtype, device=before.device)
    wanted = before * factors
    allowed = torch.zeros_like(before)
    if through_hook:
        allowed = ROUNDINGS * torch.finfo(before.dtype).eps * before.abs() * (1 + factors.abs())
    # Written so that a NaN anywhere counts as wrong.
    wrong = ~((after - wanted).abs() <= allowed)
    if bool(wrong.any()):
        index = int(wrong.nonzero()[0])
        scale = scales[index]
        raise EditFailed(
            f"scaling {scale.coordinate} by {scale.factor:g} did not take effect: the module computes "
            f"with {float(after[index]):g} where {float(wanted[index]):g} was meant"
        )


@contextmanager
def _patched(subject: Subject, patch: PatchActivation) -> Iterator[None]:
    """Patch one activation. Raises `EditFailed` on exit where a forward pass went without it."""
    blocks = subject.architecture.blocks
    if not 0 <= patch.layer < len(blocks) or not 0 <= patch.channel < subject.architecture.hidden:
        raise BadInput(f"no activation at block {patch.layer}, channel {patch.channel} to patch")
    patched = 0

    def put(residual: torch.Tensor) -> None:
        nonlocal patched
        value = torch.as_tensor(patch.value, dtype=residual.dtype, device=residual.device)
        residual[:, patch.token, patch.channel] = value
        patched += 1

    with counted_passes(subject) as count, ExitStack() as hooks:
        hooks.callback(patch_stream(blocks[patch.layer], subject.architecture.hidden, put).remove)
        yield
    if patched != count.passes:
        raise EditFailed(
            f"the activation of block {patch.layer}, channel {patch.channel} was patched in "
            f"{patched} of {count.passes} forward passes"
        )
