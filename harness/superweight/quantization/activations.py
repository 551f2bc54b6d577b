"""Rounded activations: the input of every linear matrix, with or without the super activation.

Table 3 and 4 of the paper. "Per tensor" is one step a sequence, so that what is measured of a
window does not hang on the windows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from superweight.core.errors import EditFailed
from superweight.detection.detect import SuperActivation
from superweight.detection.scan import Scan
from superweight.model.pass_count import counted_passes
from superweight.model.subject import Subject
from superweight.quantization.granularity import Layout, PerRow, PerTensor
from superweight.quantization.hold_out import held_out
from superweight.quantization.integer_grid import Scheme, round_
from superweight.quantization.linear_layers import matrices_of, readings_of

# Entries of one sequence's input, as (tokens, channels).
Places = tuple[torch.Tensor, torch.Tensor]


@contextmanager
def rounded_inputs(
    subject: Subject,
    scheme: Scheme,
    layout: Layout,
    *,
    hold_out: Mapping[nn.Module, Places] | None = None,
    smoothing: Mapping[nn.Module, torch.Tensor] | None = None,
) -> Iterator[None]:
    """Round what every linear matrix reads, for the length of a ``with`` block.

    ``layout``: `PerTensor` for a step a sequence, `PerRow` for a step a token. The entries of
    ``hold_out`` are replaced by the median before and put back after (equation 1). ``smoothing`` has the
    factors, (inputs,), by which a module's input is divided first. Raises `EditFailed` when a
    matrix was computed without its input having been rounded.
    """
    matrices = matrices_of(subject)
    counts = dict.fromkeys(matrices, 0)
    # Query, key and value read one tensor, gate and up another: each is rounded once. It is kept alive,
    # so that nothing else can have its identity.
    last: list[tuple[torch.Tensor, int, object, torch.Tensor]] = []

    def rounded(inputs: torch.Tensor, places: Places | None, factors: torch.Tensor | None) -> torch.Tensor:
        version = 0 if inputs.is_inference() else inputs._version
        same = None if places is None else tuple(map(tuple, (index.tolist() for index in places)))
        key = same, None if factors is None else id(factors)
        if not (last and last[0][0] is inputs and last[0][1:3] == (version, key)):
            scaled = inputs if factors is None else inputs / factors
            last[:] = [(inputs, version, key, rounded_sequences(scaled, scheme, layout, places))]
        return last[0][3]

    def hook(matrix: Any) -> Callable[[nn.Module, Any], Any]:
        places = (hold_out or {}).get(matrix.module)
        factors = (smoothing or {}).get(matrix.module)

        def replace(_: nn.Module, arguments: Any) -> Any:
            counts[matrix] += 1
            return rounded(arguments[0], places, factors), *arguments[1:]

        return replace

    with counted_passes(subject) as begun, ExitStack() as hooks:
        for matrix in matrices:
            hooks.callback(matrix.module.register_forward_pre_hook(hook(matrix)).remove)
        yield
    missed = next((matrix for matrix, count in counts.items() if count < begun.passes), None)
    if missed is not None:
        raise EditFailed(
            f"what block {missed.layer}, {missed.path} reads was rounded in {counts[missed]} of "
            f"{begun.passes} passes"
        )


def rounded_sequences(
    inputs: torch.Tensor, scheme: Scheme, layout: Layout, places: Places | None = None
) -> torch.Tensor:
    """Return X rounded, each sequence by itself: (sequences, tokens, channels), or (tokens, channels).

    The entries at ``places`` are as they were in every sequence.
    """
    copy = inputs.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    stack = copy if copy.ndim == 3 else copy[None]
    reached = _within(places, stack)
    # Of every sequence its own, and only where it is wanted: a median takes longer than the rounding. Along
    # a dimension it would come with indices, of which CUDA warns that they may be others each time.
    stand_in = torch.stack([sequence.median() for sequence in stack])[:, None] if reached else 0.0
    with held_out(stack, reached, stand_in):
        if isinstance(layout, PerTensor | PerRow):
            round_(stack, scheme, layout)
        else:
            for sequence in stack:
                round_(sequence, scheme, layout)
    return copy.to(inputs.dtype)


def _within(places: Places | None, stack: torch.Tensor) -> tuple[torch.Tensor | slice, ...]:
    """Return the places, in every sequence, that (sequences, tokens, channels) are long enough to have."""
    if places is None:
        return ()
    tokens, channels = (index.to(stack.device) for index in places)
    there = tokens < stack.shape[1]
    return (slice(None), tokens[there], channels[there]) if bool(there.any()) else ()


def held_places(subject: Subject, found: Scan) -> dict[nn.Module, Places]:
    """Return where the super activation stands in what each matrix reads.

    It is read, behind a norm, at its token and channel in the blocks after its onset for as long
    as the stream carries it; and what makes it is read by the onset block's output projection, at the
    same token and the super weight's column. The paper leaves open which tensors it means.
    """
    pairs: dict[nn.Module, list[tuple[int, int]]] = {}
    for reading in readings_of(subject, matrices_of(subject)):
        if reading.normed:
            here = [item for item in found.super_activations if _carried(item, reading.matrix.layer)]
            pairs.setdefault(reading.matrix.module, []).extend((item.token, item.channel) for item in here)
    for weight in found.super_weights:
        module = subject.architecture.projection(weight.coordinate).module
        pairs.setdefault(module, []).append((weight.token, weight.coordinate.col))
    return {module: _indices(places) for module, places in pairs.items() if places}


def _carried(item: SuperActivation, layer: int) -> bool:
    # Block n reads the stream as block n - 1 left it.
    return item.onset < layer <= item.last + 1


def _indices(places: Sequence[tuple[int, int]]) -> Places:
    tokens, channels = zip(*dict.fromkeys(places), strict=True)
    return torch.tensor(tokens), torch.tensor(channels)
