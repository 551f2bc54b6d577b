"""Choosing the z-score to clip at by least reconstruction error on a text (section 4.2 of the paper).

What is reconstructed is what the head reads. The error of each matrix by itself, which is cheaper,
does not see that a clipped matrix no longer feeds the super weight: docs/quantization.md has what
that choice leads to.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from superweight.core.coordinates import Coordinate
from superweight.model.subject import Subject
from superweight.quantization.linear_layers import Matrix
from superweight.quantization.weights import WeightRounding, fake_quantised

# The paper gives no grid. This one is geometric, from where a normal distribution ends to where
# only single scalars of a matrix lie; None, no clipping, is what it ends in.
Z_SCORES = (4.0, 6.0, 9.0, 13.0, 20.0, None)


def reconstruction_errors(
    subject: Subject,
    candidates: Sequence[WeightRounding],
    hold_out: Collection[Coordinate],
    ids: torch.Tensor,
) -> dict[WeightRounding, float]:
    """Return what each rounding changes in the last hidden states H: ||Ĥ - H||² / ||H||².

    ``ids``: (windows, tokens); H: (windows, tokens, hidden), behind the last norm.
    """
    whole = _last_hidden(subject, ids)
    errors = {}
    spreads: dict[Matrix, tuple[float, float]] = {}
    for candidate in candidates:
        with fake_quantised(subject, candidate, hold_out=hold_out, spreads=spreads):
            change = _last_hidden(subject, ids) - whole
        errors[candidate] = float(change.square().sum() / whole.square().sum())
    return errors


def _last_hidden(subject: Subject, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = subject.model.base_model(input_ids=ids.to(subject.device), use_cache=False)
    states: torch.Tensor = output.last_hidden_state.float()
    return states


def best_clips(
    subject: Subject,
    roundings: Sequence[WeightRounding],
    hold_out: Collection[Coordinate],
    ids: torch.Tensor,
    z_scores: Sequence[float | None] = Z_SCORES,
) -> dict[WeightRounding, WeightRounding]:
    """Return each rounding clipped at the z-score of least error; of equals, the one named last."""
    candidates = {one: [replace(one, clip=z) for z in reversed(z_scores)] for one in roundings}
    every = [clipped for group in candidates.values() for clipped in group]
    errors = reconstruction_errors(subject, every, hold_out, ids)
    return {one: min(group, key=errors.__getitem__) for one, group in candidates.items()}
