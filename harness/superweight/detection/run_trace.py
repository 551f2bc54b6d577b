"""Run one forward pass and record it as a `Trace`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from superweight.detection.detect import BORDER, OUTLIER_RATIO, SHARE
from superweight.detection.trace import Array, NormGains, Trace, Write
from superweight.model.capture import Meanwhile, PassEnded, Record, recorded
from superweight.model.edits import PatchActivation, active_edits
from superweight.model.prefix_cache import Prefix, resumed
from superweight.model.subject import Subject

# Told of the trace up to each block; True ends the pass there.
Seen = Callable[[Trace], bool]


@dataclass(frozen=True)
class ModelWeights:
    """`Weights` of a live model: reads what the projections compute with at the time.

    ``kept`` are rows that were read while their block was at hand.
    """

    subject: Subject
    kept: dict[tuple[int, int, int | None], Array] = field(default_factory=dict)

    def row(self, layer: int, channel: int, expert: int | None = None) -> Array:
        if (layer, channel, expert) in self.kept:
            return self.kept[layer, channel, expert]
        projection = self.subject.architecture.writer(layer, expert)
        with self.subject.at_hand([projection]):
            array: Array = projection.row(channel).float().cpu().numpy().copy()
        return array

    def keep(self, layer: int, channel: int, expert: int | None) -> None:
        """Read a row now: its block may be gone when it is asked for."""
        self.kept[layer, channel, expert] = self.row(layer, channel, expert)


def trace(subject: Subject, text: str, meanwhile: Meanwhile | None = None, seen: Seen | None = None) -> Trace:
    """Return the trace of one text; ``meanwhile`` is told of each block as it ends.

    ``seen`` is as in `trace_batch`.
    """
    return trace_batch(subject, [subject.encode(text)], meanwhile=meanwhile, seen=seen)[0]


def trace_again(subject: Subject, text: str, before: Trace, prefix: Prefix) -> Trace:
    """Return the trace of a text that was traced ``before``, run anew from a prefix on only.

    What lies before the prefix's block is taken from the earlier trace, and it ends where that one did.
    """
    start, last = prefix.block, before.blocks
    ends = last < len(subject.architecture.blocks)
    with resumed(subject, prefix):
        (rest,) = trace_batch(
            subject,
            [subject.encode(text)],
            start,
            seen=(lambda partly: start + partly.blocks == last) if ends else None,
        )
    return Trace(
        writes=before.writes[:start] + rest.writes,
        arrived=before.arrived[:start] + rest.arrived,
        residual=np.concatenate([before.residual[:start], rest.residual]),
        weights=rest.weights,
        carry=before.carry[:start] + rest.carry,
        lanes=_joined(before.lanes, rest.lanes, start),
        norms=before.norms[:start] + rest.norms,
    )


def trace_batch(
    subject: Subject,
    sequences: Sequence[Sequence[int]],
    start: int = 0,
    meanwhile: Meanwhile | None = None,
    *,
    left: bool = False,
    use_cache: bool = False,
    seen: Seen | None = None,
) -> list[Trace]:
    """Return the traces of several sequences of ids, run as one batch, padded on the right.

    ``left`` pads on the left, as generation does, and ``use_cache`` keeps keys and values: neither may
    change a trace. With ``start`` they begin at that block, and at what enters it. Padding is cut off
    again: each trace holds its own tokens only. ``seen`` is shown the first sequence's trace up to each
    block, and may end the pass there. Raises `NotFinite` when the pass overflows the model's
    dtype, `UnknownArchitecture` when the parts do not add up.
    """
    ids, mask = padded(subject, sequences, left=left)
    # As generation numbers them; on the right, tokens stand where the model expects them anyway.
    places = {"position_ids": (mask.cumsum(-1) - 1).clamp_min(0)} if left else {}
    held = {edit.layer for edit in active_edits(subject) if isinstance(edit, PatchActivation)}
    cuts = _Cuts([len(sequence) for sequence in sequences], ids.shape[1], left)
    weights = ModelWeights(subject)
    pieces = [_Pieces(weights) for _ in sequences]

    def ended(record: Record) -> None:
        for row, own in enumerate(pieces):
            own.take(record, start, row, cuts)
        if seen is not None and seen(pieces[0].trace()):
            raise PassEnded

    with (
        torch.no_grad(),
        recorded(subject.architecture, start, meanwhile, held, (len(ids), ids.shape[1]), ended) as record,
    ):
        # The decoder without its head: a trace needs no logits.
        subject.decoder(input_ids=ids, attention_mask=mask, use_cache=use_cache, **places)
    for row, own in enumerate(pieces):
        own.take(record, start, row, cuts)
    return [own.trace() for own in pieces]


@dataclass(frozen=True)
class _Cuts:
    """Where each sequence of a padded batch lies in its row."""

    lengths: list[int]
    longest: int
    left: bool

    def of(self, row: int) -> tuple[int, int]:
        begin = self.longest - self.lengths[row] if self.left else 0
        return begin, begin + self.lengths[row]


@dataclass(frozen=True)
class _Pieces:
    """One sequence's part of a record, block by block, as arrays."""

    weights: ModelWeights
    writes: list[tuple[Write, ...]] = field(default_factory=list)
    arrived: list[Array] = field(default_factory=list)
    residual: list[Array] = field(default_factory=list)
    lanes: list[NDArray[np.uint8]] = field(default_factory=list)
    carry: list[float] = field(default_factory=list)
    norms: list[NormGains | None] = field(default_factory=list)

    def take(self, record: Record, start: int, row: int, cuts: _Cuts) -> None:
        """Take over what the record has gained since it was last looked at."""
        begin, end = cuts.of(row)
        offset = row * cuts.longest
        for stream, lane in zip(
            record.residual[len(self.residual) :], record.lanes[len(self.residual) :], strict=True
        ):
            self.residual.append(_array(stream[row, begin:end]))
            if lane is not None:
                self.lanes.append(lane[row, begin:end].cpu().numpy().astype(np.uint8))
        for layer in range(len(self.writes), len(record.parts)):
            self.writes.append(
                tuple(
                    Write(
                        part.expert,
                        (part.places[chosen] - offset - begin).cpu().numpy(),
                        _array(part.inputs[chosen]),
                        _array(part.outputs[chosen]),
                        _array(part.factors[chosen]),
                    )
                    for part in record.parts[layer]
                    if len(chosen := part.within(offset + begin, offset + end))
                )
            )
            self.arrived.append(_array(record.arrived[layer][row, begin:end]))
            self.carry.append(record.carry[layer])
            norm = record.norms[layer]
            self.norms.append(None if norm is None else NormGains(norm[0], _array(norm[1])))
            if self.weights.subject.stream is not None:
                self._keep_rows(start)

    def _keep_rows(self, start: int) -> None:
        """Keep the rows that may be asked for: those through which the last block wrote what stands out."""
        layer, stream = len(self.writes) - 1, np.abs(np.stack(self.residual))
        median = np.median(stream, axis=(1, 2), keepdims=True)
        outlying = (stream > OUTLIER_RATIO * median).any(0)
        wrote = np.abs(self.arrived[layer]) >= SHARE / BORDER * stream.max(0)
        for channel in np.unique((outlying & wrote).nonzero()[1]).tolist():
            for write in self.writes[layer]:
                self.weights.keep(start + layer, channel, write.expert)

    def trace(self) -> Trace:
        return Trace(
            writes=tuple(self.writes),
            arrived=tuple(self.arrived),
            residual=np.stack(self.residual),
            weights=self.weights,
            carry=tuple(self.carry),
            lanes=np.stack(self.lanes) if self.lanes else None,
            norms=tuple(self.norms),
        )


def _joined(
    before: NDArray[np.uint8] | None, rest: NDArray[np.uint8] | None, start: int
) -> NDArray[np.uint8] | None:
    return None if before is None or rest is None else np.concatenate([before[:start], rest])


def padded(
    subject: Subject, sequences: Sequence[Sequence[int]], *, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and attention mask, both (sequences, longest), padded on one side."""
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        own = slice(longest - len(sequence), longest) if left else slice(len(sequence))
        ids[row, own] = torch.tensor(sequence)
        mask[row, own] = 1
    return ids.to(subject.device), mask.to(subject.device)


def _array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.float().cpu().numpy().copy()
    return array
