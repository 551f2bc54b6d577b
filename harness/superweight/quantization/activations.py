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
from superweight.quantization.granularity import Layout
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

    def hook(matrix: Any) -> Callable[[nn.Module, Any], Any]:
        places = (hold_out or {}).get(matrix.module)
        factors = (smoothing or {}).get(matrix.module)

        def replace(_: nn.Module, arguments: Any) -> Any:
            counts[matrix] += 1
            inputs = arguments[0] if factors is None else arguments[0] / factors
            return rounded_sequences(inputs, scheme, layout, places), *arguments[1:]

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
    for sequence in copy if copy.ndim == 3 else copy[None]:
        reached = _within(places, sequence)
        with held_out(sequence, reached, stand_in=float(sequence.median()) if reached else 0.0):
            round_(sequence, scheme, layout)
    return copy.to(inputs.dtype)


def _within(places: Places | None, sequence: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the places that a sequence is long enough to have."""
    if places is None:
        return ()
    tokens, channels = (index.to(sequence.device) for index in places)
    there = tokens < len(sequence)
    return tokens[there], channels[there]


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
