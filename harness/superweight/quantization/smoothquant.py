"""SmoothQuant (arXiv 2211.10438): part of the activations' spread is moved into the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from superweight.model.subject import Subject
from superweight.quantization.linear_layers import Matrix, matrices_of, readings_of
from superweight.quantization.losses import BATCH

# The paper compares with SmoothQuant at the migration strength its authors use for Llama models.
ALPHA = 0.85
# SmoothQuant's own floor: a channel that is never read would otherwise divide by zero.
_FLOOR = 1e-5


def smoothing_factors(
    subject: Subject, ids: torch.Tensor, alpha: float = ALPHA
) -> dict[nn.Module, torch.Tensor]:
    """Return, for every matrix behind a norm, the factor of each of its input channels: (inputs,).

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), where matrices that read the same tensor share
    their factors, so that a norm could carry them. ``ids``: (windows, tokens) to calibrate on.
    """
    matrices = matrices_of(subject)
    groups: dict[int, list[Matrix]] = {}
    for reading in readings_of(subject, matrices):
        if reading.normed:
            groups.setdefault(reading.source, []).append(reading.matrix)
    with _largest_inputs(subject, [group[0] for group in groups.values()]) as largest:
        for part in ids.to(subject.device).split(BATCH):
            with torch.no_grad():
                subject.model.base_model(input_ids=part, use_cache=False)
    factors: dict[nn.Module, torch.Tensor] = {}
    for group in groups.values():
        read = largest[group[0]].clamp_min(_FLOOR)
        weights = [matrix.weight().abs().amax(0).float() for matrix in group]
        written = torch.stack(weights).amax(0).clamp_min(_FLOOR)
        shared = (read**alpha / written ** (1 - alpha)).clamp_min(_FLOOR)
        factors |= {matrix.module: shared.to(matrix.stored.dtype) for matrix in group}
    return factors


@contextmanager
def _largest_inputs(subject: Subject, matrices: list[Matrix]) -> Iterator[Mapping[Matrix, torch.Tensor]]:
    """Record the largest magnitude of every channel that some matrices read: (inputs,) each."""
    largest: dict[Matrix, torch.Tensor] = {}

    def hook(matrix: Matrix) -> Any:
        def record(_: nn.Module, arguments: Any) -> None:
            read = arguments[0].detach().abs().flatten(0, -2).amax(0).float()
            largest[matrix] = torch.maximum(largest.get(matrix, read), read)

        return record

    with ExitStack() as hooks:
        for matrix in matrices:
            hooks.callback(matrix.module.register_forward_pre_hook(hook(matrix)).remove)
        yield largest
