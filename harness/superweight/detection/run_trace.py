"""Run one forward pass and record it as a `Trace`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from superweight.detection.trace import Array, NormGains, Trace, Write
from superweight.model.architecture import Architecture
from superweight.model.capture import Meanwhile, Record, recorded
from superweight.model.edits import PatchActivation, active_edits
from superweight.model.gains import gains_of, is_gain
from superweight.model.prefix_cache import Prefix, resumed
from superweight.model.subject import Subject


@dataclass(frozen=True)
class ModelWeights:
    """`Weights` of a live model: reads what the projections compute with at the time."""

    architecture: Architecture

    def row(self, layer: int, channel: int, expert: int | None = None) -> Array:
        row = self.architecture.writer(layer, expert).row(channel)
        array: Array = row.float().cpu().numpy().copy()
        return array


def trace(subject: Subject, text: str, meanwhile: Meanwhile | None = None) -> Trace:
    """Return the trace of one text; ``meanwhile`` is told of each block as it ends."""
    return trace_batch(subject, [subject.encode(text)], meanwhile=meanwhile)[0]


def trace_again(subject: Subject, text: str, before: Trace, prefix: Prefix) -> Trace:
    """Return the trace of a text that was traced ``before``, run anew from a prefix on only.

    What lies before the prefix's block is taken from the earlier trace.
    """
    start = prefix.block
    with resumed(subject, prefix):
        (rest,) = trace_batch(subject, [subject.encode(text)], start)
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
) -> list[Trace]:
    """Return the traces of several sequences of ids, run as one batch, padded on the right.

    ``left`` pads on the left, as generation does, and ``use_cache`` keeps keys and values: neither may
    change a trace. With ``start`` they begin at that block, and at what enters it. Padding is cut off
    again: each trace holds its own tokens only. Raises `NotFinite` when the pass overflows the model's
    dtype, `UnknownArchitecture` when the parts do not add up.
    """
    ids, mask = padded(subject, sequences, left=left)
    # As generation numbers them; on the right, tokens stand where the model expects them anyway.
    places = {"position_ids": (mask.cumsum(-1) - 1).clamp_min(0)} if left else {}
    held = {edit.layer for edit in active_edits(subject) if isinstance(edit, PatchActivation)}
    with (
        torch.no_grad(),
        recorded(subject.architecture, start, meanwhile, held, (len(ids), ids.shape[1])) as record,
    ):
        # The decoder without its head: a trace needs no logits.
        subject.decoder(input_ids=ids, attention_mask=mask, use_cache=use_cache, **places)
    weights = ModelWeights(subject.architecture)
    longest = ids.shape[1]
    norms = tuple(_gains(subject.architecture, layer, norm) for layer, norm in enumerate(record.norms, start))
    traces = []
    for row, sequence in enumerate(sequences):
        begin = longest - len(sequence) if left else 0
        end = begin + len(sequence)
        traces.append(
            Trace(
                writes=tuple(
                    tuple(
                        Write(
                            part.expert,
                            (part.places[chosen] - row * longest - begin).cpu().numpy(),
                            _array(part.inputs[chosen]),
                            _array(part.outputs[chosen]),
                            _array(part.factors[chosen]),
                        )
                        for part in parts
                        if len(chosen := part.within(row * longest + begin, row * longest + end))
                    )
                    for parts in record.parts
                ),
                arrived=tuple(_array(arrived[row, begin:end]) for arrived in record.arrived),
                residual=np.stack([_array(stream[row, begin:end]) for stream in record.residual]),
                weights=weights,
                carry=tuple(record.carry),
                lanes=_lanes(record, row, begin, end),
                norms=norms,
            )
        )
    return traces


def _lanes(record: Record, row: int, begin: int, end: int) -> NDArray[np.uint8] | None:
    kept = [lane[row, begin:end].cpu().numpy().astype(np.uint8) for lane in record.lanes if lane is not None]
    return np.stack(kept) if kept else None


def _joined(
    before: NDArray[np.uint8] | None, rest: NDArray[np.uint8] | None, start: int
) -> NDArray[np.uint8] | None:
    return None if before is None or rest is None else np.concatenate([before[:start], rest])


def _gains(architecture: Architecture, layer: int, norm: nn.Module | None) -> NormGains | None:
    """Return the gains of the norm behind a block's MLP; None where there is none that is a gain alone."""
    for name, part in architecture.blocks[layer].named_children():
        if part is norm and is_gain(part, architecture.hidden):
            return NormGains(name, _array(gains_of(architecture, layer, name).values()))
    return None


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
