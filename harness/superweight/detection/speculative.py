"""Confirm super weights in the same forward pass: a pruned copy of the sequence runs beside it.

As soon as a block writes what may become a super activation, the scalars that make it are taken out
of a copy of the residual stream, which runs through the remaining blocks as a second row of the
batch. The guess is confirmed at the end of the pass: the copy counts if it was pruned of exactly the
set that detection then finds. Otherwise a second pass follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from superweight.core.coordinates import Coordinate
from superweight.detection.detect import COMPANION, OUTLIER_RATIO, SHARE, SPAN
from superweight.detection.trace import Trace
from superweight.model.batch_rows import entering, rows_join, with_rows
from superweight.model.capture import DenseWrite
from superweight.model.projections import with_correction
from superweight.model.subject import Subject

# Where a matrix is packed, so many of a token's largest inputs are asked for their scalars. One that
# makes a tenth of an enormous write from a smaller input is missed here, and found after the pass.
_ASKED = 32


@dataclass(frozen=True)
class _Guess:
    """A write that may make a super activation: where, how much, and by which scalars."""

    layer: int
    token: int
    channel: int
    arrived: float
    scalars: tuple[tuple[Coordinate, float], ...]


@dataclass(frozen=True)
class SpeculativeTrace:
    """The residual stream of the copy from block ``start``'s output on, and what it was pruned of.

    ``residual``: (blocks - start, tokens, hidden).
    """

    start: int
    pruned: frozenset[Coordinate]
    residual: tuple[torch.Tensor, ...]

    def traced(self, intact: Trace) -> Trace:
        """Return the intact trace with the copy's residual stream in place of its own."""
        rest = np.stack([part.float().cpu().numpy() for part in self.residual])
        return replace(intact, residual=np.concatenate([intact.residual[: self.start + 1], rest]))


@dataclass
class SpeculativePruning:
    """What one pass over one sequence has led to so far; `look` is called after every block."""

    subject: Subject
    guesses: tuple[_Guess, ...] = ()
    copy: torch.Tensor | None = None
    start: int = 0
    course: list[torch.Tensor] = field(default_factory=list)

    def foreseen(self, blocks: int) -> SpeculativeTrace | None:
        """Return the copy as it ran through so many blocks, or None where there is none."""
        if self.copy is None or len(self.course) != blocks - self.start:
            return None
        return SpeculativeTrace(self.start, _scalars(self.guesses), tuple(self.course))

    def look(self, write: DenseWrite) -> None:
        """Follow the copy through one block, and take out of it what the block writes too much."""
        followed = self.copy is not None and len(write.after) == 2
        self.copy = write.after[1] if followed else None
        before = self.guesses if followed else ()
        # An overflow is for whoever traces the pass to refuse.
        if write.after.ndim == 3 and bool(write.after.isfinite().all()):
            self.guesses = self._guess(write, before)
        if _scalars(self.guesses) != _scalars(before):
            self._prune(write, before)
        if self.copy is not None:
            self.course.append(self.copy)

    def _guess(self, write: DenseWrite, before: tuple[_Guess, ...]) -> tuple[_Guess, ...]:
        """Return the writes, up to this block, that may make what stands out after it."""
        blocks = len(self.subject.architecture.blocks)
        if blocks - write.layer < SPAN * blocks:
            return before  # what begins here would not span enough of the model
        stream = write.after[0].float()
        magnitude = stream.abs()
        outlying = magnitude > OUTLIER_RATIO * magnitude.median()
        outlying &= magnitude >= COMPANION * magnitude.max()
        sites = {
            (token, channel): float(stream[token, channel]) for token, channel in outlying.nonzero().tolist()
        }
        # What stood out where it was written need not stand out in every later block; a larger one ends it.
        kept = [
            guess
            for guess in before
            if COMPANION * magnitude.max()
            <= magnitude[guess.token, guess.channel]
            <= abs(guess.arrived) / SHARE
        ]
        for channel in {channel for _, channel in sites}:
            arrived = {
                token: float(write.outputs[0, token, channel]) for token, other in sites if other == channel
            }
            large = {
                token: value
                for token, value in arrived.items()
                if value * sites[token, channel] > 0 and abs(value) >= SHARE * abs(sites[token, channel])
            }
            if large:
                kept += self._makers(write, channel, large)
        return tuple(kept)

    def _makers(self, write: DenseWrite, channel: int, arrived: Mapping[int, float]) -> Iterator[_Guess]:
        """Yield, for the tokens at which so much arrived, the scalars that wrote it."""
        tokens = list(arrived)
        # (tokens, intermediate): the share of each input's product if its scalar were one.
        parts = write.inputs[0, tokens].float() * write.scale
        parts = parts / torch.tensor([arrived[token] for token in tokens], device=parts.device)[:, None]
        shown = write.projection.shown_row(channel)
        if shown is None:
            asked = parts.abs().topk(min(_ASKED, parts.shape[1])).indices.unique()
        else:
            asked = (parts * shown.to(parts) >= SHARE / 2).any(0).nonzero()[:, 0]
        values = write.projection.probe(asked)[:, channel].float()
        shares = parts[:, asked] * values
        for token, own in zip(tokens, shares >= SHARE, strict=True):
            scalars = zip(asked[own].tolist(), values[own].tolist(), strict=True)
            places = tuple((write.projection.at(channel, col), value) for col, value in scalars)
            yield _Guess(write.layer, token, channel, arrived[token], places)

    def _prune(self, write: DenseWrite, before: tuple[_Guess, ...]) -> None:
        """Take this block's share of the guesses out of the copy, or out of a new one."""
        layers = {guess.layer for guess in self.guesses}
        earlier = [guess for guess in self.guesses if guess.layer < write.layer]
        if layers == {write.layer}:
            self.start, row = write.layer, 0
            self.course.clear()
        elif self.copy is not None and write.layer in layers and _scalars(earlier) == _scalars(before):
            row = 1
        else:
            # Something was pruned earlier that does not belong to the set after all, or nothing is left.
            self.copy, self.guesses = None, ()
            return
        scalars = {place: value for guess in self.guesses for place, value in guess.scalars}
        own = {place: value for place, value in scalars.items() if place.layer == write.layer}
        self.copy = with_correction(
            write.inputs[row],
            write.after[row],
            torch.tensor([place.row for place in own]),
            torch.tensor([place.col for place in own]),
            -write.scale * torch.tensor([*own.values()]),
        )

    def join(self, block: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Bring the copy, where there is one, into the batch that a block computes on; a pre-hook."""
        hidden = entering(arguments, keywords)
        if not rows_join(block, hidden):
            return None  # nothing is foreseen there
        if self.copy is None:
            return None if len(hidden) == 1 else with_rows(hidden[:1], 1, arguments, keywords)
        return with_rows(torch.cat([hidden[:1], self.copy[None]]), 1, arguments, keywords)


def _scalars(guesses: tuple[_Guess, ...] | list[_Guess]) -> frozenset[Coordinate]:
    return frozenset(place for guess in guesses for place, _ in guess.scalars)


@contextmanager
def speculative_pruning(subject: Subject) -> Iterator[SpeculativePruning]:
    """Let a pruned copy ride along in one forward pass over one sequence, run inside.

    The pass must call `SpeculativePruning.look` with what each block wrote. Blocks whose write is not that
    of one dense projection, as it is, are passed over: nothing is foreseen of what they make.
    """
    foresight = SpeculativePruning(subject)
    with ExitStack() as hooks:
        for block in subject.architecture.blocks[1:]:
            hooks.callback(block.register_forward_pre_hook(foresight.join, with_kwargs=True).remove)
        yield foresight
