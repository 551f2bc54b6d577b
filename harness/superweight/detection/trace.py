"""One forward pass, recorded: what every MLP output projection read and wrote, what of it reached
the residual stream, and the stream between the blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from superweight.model.architecture import Anatomy
from superweight.model.capture import Meanwhile, recorded
from superweight.model.loading import Subject
from superweight.model.prefix_cache import Prefix, resumed

Array = NDArray[np.float32]


class Weights(Protocol):
    """Reads single rows of the output projections' weights."""

    def row(self, layer: int, channel: int, expert: int | None = None) -> Array:
        """Return W[channel, :] of a block's, or an expert's, projection: (intermediate,)."""
        ...


@dataclass(frozen=True)
class Write:
    """What one output projection did for the tokens it saw; n of them.

    ``tokens``: (n,), their places in the sequence. ``inputs``: X, (n, intermediate). ``outputs``: Y,
    (n, hidden). ``factors``: (n,), what Y is multiplied with on its way into the block's write:
    an expert's routing weight, or 1.
    """

    expert: int | None
    tokens: NDArray[np.int64]
    inputs: Array
    outputs: Array
    factors: Array


@dataclass(frozen=True)
class Trace:
    """What one sequence left behind in one forward pass, in float32.

    ``writes[l]``: what each output projection of block l did, those that saw no token left out.
    ``arrived[l]``: (tokens, hidden), what their sum is where it reaches the residual stream, behind
    the norm of a post-norm block. ``residual``: (blocks + 1, tokens, hidden); 0 is the
    embedding, l + 1 the stream after block l.
    """

    writes: tuple[tuple[Write, ...], ...]
    arrived: tuple[Array, ...]
    residual: Array
    weights: Weights

    @property
    def blocks(self) -> int:
        return len(self.writes)

    @cached_property
    def typical(self) -> NDArray[np.float64]:
        """The median magnitude of the residual stream after each block: (blocks + 1,)."""
        return np.median(np.abs(self.residual).astype(np.float64), axis=(1, 2))

    @cached_property
    def largest(self) -> float:
        """The largest magnitude anywhere: stream, projection inputs and outputs."""
        every = [write for writes in self.writes for write in writes]
        arrays = [self.residual, *(write.inputs for write in every), *(write.outputs for write in every)]
        return max(float(np.abs(array).max()) for array in arrays)


@dataclass(frozen=True)
class ModelWeights:
    """`Weights` of a live model: reads what the projections compute with at the time."""

    anatomy: Anatomy

    def row(self, layer: int, channel: int, expert: int | None = None) -> Array:
        row = self.anatomy.writer(layer, expert).row(channel)
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
    )


def trace_batch(
    subject: Subject,
    sequences: Sequence[Sequence[int]],
    start: int = 0,
    meanwhile: Meanwhile | None = None,
) -> list[Trace]:
    """Return the traces of several sequences of ids, run as one right-padded batch.

    With ``start`` they begin at that block, and at what enters it. Padding is cut off again: each
    trace holds its own tokens only. Raises `NotFinite` when the pass overflows the model's dtype,
    `UnknownAnatomy` when the parts do not add up.
    """
    ids, mask = padded(subject, sequences)
    with torch.no_grad(), recorded(subject.anatomy, start, meanwhile) as record:
        # The decoder without its head: a trace needs no logits.
        subject.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    weights = ModelWeights(subject.anatomy)
    longest = ids.shape[1]
    traces = []
    for row, sequence in enumerate(sequences):
        own = len(sequence)
        traces.append(
            Trace(
                writes=tuple(
                    tuple(
                        Write(
                            part.expert,
                            (part.places[chosen] - row * longest).cpu().numpy(),
                            _array(part.inputs[chosen]),
                            _array(part.outputs[chosen]),
                            _array(part.factors[chosen]),
                        )
                        for part in parts
                        if len(chosen := part.within(row * longest, row * longest + own))
                    )
                    for parts in record.parts
                ),
                arrived=tuple(_array(arrived[row, :own]) for arrived in record.arrived),
                residual=np.stack([_array(stream[row, :own]) for stream in record.residual]),
                weights=weights,
            )
        )
    return traces


def padded(subject: Subject, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and attention mask, both (sequences, longest), padded on the right."""
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return ids.to(subject.device), mask.to(subject.device)


def _array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.float().cpu().numpy().copy()
    return array
