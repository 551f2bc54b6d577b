"""Run many conditions in one forward pass, each in its own rows of the batch.

A condition joins the batch at the first block that it changes, as a copy of the intact rows, so
that the blocks before it run once for all. Its edits touch its own rows alone. The
weights are read once, for any number of conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from superweight.core.errors import EditFailed
from superweight.measurement.conditions import INTACT, Condition
from superweight.model.activation_patch import patch_stream
from superweight.model.batch_rows import NoRowsJoin, entering, rows_join, with_rows
from superweight.model.edit_proofs import prove
from superweight.model.edits import ROUNDINGS, Scale, gain_factors
from superweight.model.gains import gains_of
from superweight.model.projections import LinearProjection, Projection
from superweight.model.subject import Subject


def can_batch(subject: Subject, conditions: Sequence[Condition]) -> bool:
    """Tell whether every edit is of a matrix that reads the batch row by row.

    A routed expert reads tokens from anywhere in the batch.
    """
    return all(
        isinstance(subject.architecture.projection(scale.coordinate), LinearProjection)
        for condition in conditions
        for scale in condition.scales
    )


@dataclass(frozen=True)
class BatchLayout:
    """Where each condition sits in the batch: ``sequences`` rows each, the intact model's first.

    ``conditions`` are in the order in which they join.
    """

    conditions: tuple[Condition, ...]
    sequences: int
    from_start: bool

    def joined(self, block: int) -> int:
        """Return how many conditions are in the batch that a block computes on."""
        return sum(self.from_start or condition.first_block <= block for condition in self.conditions)

    def rows(self, seat: int) -> slice:
        return slice(seat * self.sequences, (seat + 1) * self.sequences)

    def by_name(self) -> Mapping[str, slice]:
        """Return the rows of every condition, the intact model's among them."""
        names = [INTACT, *(condition.name for condition in self.conditions)]
        return {name: self.rows(seat) for seat, name in enumerate(names)}


@contextmanager
def run_batched(
    subject: Subject, conditions: Sequence[Condition], sequences: int, *, from_start: bool = False
) -> Iterator[Mapping[str, slice]]:
    """Let ``conditions`` ride along in forward passes over ``sequences`` sequences of ids.

    Yields the rows of each in what the decoder returns. With ``from_start`` the ids hold a copy of
    the sequences for every condition already, in the yielded order. Raises `EditFailed` when an
    edit does not take effect on its own rows, or takes effect on others; inside `deferred_proofs` that
    is raised at its end.
    """
    order = tuple(sorted(conditions, key=lambda condition: condition.first_block))
    seats, hidden = BatchLayout(order, sequences, from_start), subject.architecture.hidden
    with ExitStack() as hooks:
        for layer, block in enumerate(subject.architecture.blocks):
            if seats.joined(layer) and not from_start:
                handle = block.register_forward_pre_hook(_join(seats, layer), with_kwargs=True)
                hooks.callback(handle.remove)
            if any(item.onset == layer for condition in order for item in condition.restored):
                hooks.callback(patch_stream(block, hidden, _restore(seats, layer)).remove)
            for projection in _edited(subject, order, layer):
                hooks.enter_context(_scaled(projection, seats, layer))
            for norm in _edited_norms(order, layer):
                hooks.enter_context(gains_of(subject.architecture, *norm).scaled(_factors(seats, norm)))
        yield seats.by_name()


def _join(seats: BatchLayout, layer: int) -> Any:
    """Return a hook that brings the batch before a block to the rows that the block computes on."""
    copies = 1 + seats.joined(layer)

    def join(block: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        hidden = entering(arguments, keywords)
        if not rows_join(block, hidden):
            raise NoRowsJoin
        new = copies - len(hidden) // seats.sequences
        hidden = torch.cat([hidden, *[hidden[: seats.sequences]] * new])
        return with_rows(hidden, seats.sequences, arguments, keywords)

    return join


def _restore(seats: BatchLayout, layer: int) -> Callable[[torch.Tensor], None]:
    """Return what puts the intact rows' activation in the rows of those that restore it."""

    def restore(residual: torch.Tensor) -> None:
        for seat, condition in enumerate(seats.conditions, start=1):
            for item in condition.restored:
                if item.onset == layer:
                    intact = residual[seats.rows(0), item.token, item.channel]
                    residual[seats.rows(seat), item.token, item.channel] = intact

    return restore


def _edited(subject: Subject, conditions: Sequence[Condition], layer: int) -> Iterator[Projection]:
    places = [scale.coordinate for condition in conditions for scale in condition.scales]
    if any(place.layer == layer for place in places):
        yield subject.architecture.writer(layer, None)


def _edited_norms(conditions: Sequence[Condition], layer: int) -> set[tuple[int, str]]:
    every = [edit for condition in conditions for edit in condition.gains]
    return {norm for norm in gain_factors(every) if norm[0] == layer}


def _factors(seats: BatchLayout, norm: tuple[int, str]) -> list[dict[int, float]]:
    """Return the factors of one norm's gains for each seat that is in the batch there, the intact first."""
    joined = seats.conditions[: seats.joined(norm[0])]
    return [{}, *(gain_factors(item.gains).get(norm, {}) for item in joined)]


def _own(condition: Condition, layer: int) -> list[Scale]:
    return [scale for scale in condition.scales if scale.coordinate.layer == layer]


@contextmanager
def _scaled(projection: Projection, seats: BatchLayout, layer: int) -> Iterator[None]:
    """Scale one projection's scalars, each condition's on its own rows, and prove it."""
    cols = sorted({s.coordinate.col for condition in seats.conditions for s in _own(condition, layer)})
    with torch.no_grad():
        before = projection.answer(projection.one_hot(cols)[None])[0]
    handle = projection.module.register_forward_hook(_rescale(seats, layer))
    try:
        _prove(projection, seats, layer, cols, before)
        yield
    finally:
        handle.remove()


def _rescale(seats: BatchLayout, layer: int) -> Any:
    """Return a hook that answers anew, for the rows and channels whose scalars are scaled.

    Scaling W[row, col] changes Y[:, row] as scaling X[:, col] would. So the module is asked once
    more, with such inputs, and of its answer the one channel is taken: nothing is subtracted from
    a large output, and nothing need be known of how the module keeps its weight.
    """

    def rescale(module: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        # A seat's rows lie together: (seats, tokens of its sequences, intermediate).
        inputs = arguments[0].reshape(1 + seats.joined(layer), -1, arguments[0].shape[-1])
        changed, targets = [], []
        for seat, condition in enumerate(seats.conditions, start=1):
            for channel, factors in _by_channel(_own(condition, layer)).items():
                again = inputs[seat].clone()
                for col, factor in factors.items():
                    again[..., col] *= factor
                changed.append(again)
                targets.append((seat, channel))
        result = output.clone(memory_format=torch.contiguous_format)
        seated = result.view(len(inputs), -1, output.shape[-1])
        for (seat, channel), answer in zip(targets, module.forward(torch.stack(changed)), strict=True):
            seated[seat, :, channel] = answer[:, channel]
        return result

    return rescale


def _by_channel(scales: Sequence[Scale]) -> dict[int, dict[int, float]]:
    channels: dict[int, dict[int, float]] = {}
    for scale in scales:
        channels.setdefault(scale.coordinate.row, {})[scale.coordinate.col] = scale.factor
    return channels


def _prove(
    projection: Projection, seats: BatchLayout, layer: int, cols: Sequence[int], before: torch.Tensor
) -> None:
    """Prove that each seat computes with its own scalars scaled, and no others.

    ``before``: (cols + 1, hidden), the intact answers to one-hot inputs; the last is the bias.
    """
    count = 1 + seats.joined(layer)
    wanted = before.expand(count, -1, -1).clone()
    for seat, condition in enumerate(seats.conditions[: count - 1], start=1):
        for scale in _own(condition, layer):
            at, row = cols.index(scale.coordinate.col), scale.coordinate.row
            wanted[seat, at, row] = (before[at, row] - before[-1, row]) * scale.factor + before[-1, row]
    with torch.no_grad():
        found = projection.answer(projection.one_hot(cols).repeat(count, 1, 1))
    allowed = ROUNDINGS * torch.finfo(before.dtype).eps * (before.abs() + wanted.abs() + before[-1].abs())
    # Written so that a NaN anywhere counts as wrong.
    wrong = ~((found - wanted).abs() <= allowed)

    def check() -> None:
        if bool(wrong.any()):
            seat, at, row = wrong.nonzero()[0].tolist()
            name = INTACT if seat == 0 else seats.conditions[seat - 1].name
            raise EditFailed(
                f"block {layer}, row {row}, column {(*cols, 'bias')[at]}: {name!r} computes with "
                f"{float(found[seat, at, row]):g} where {float(wanted[seat, at, row]):g} was meant"
            )

    prove(check)
