"""Choose weights that are not super weights, to be pruned for comparison."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import numpy as np
import torch

from superweight.core.coordinates import Coordinate, GainCoordinate
from superweight.core.errors import HarnessError
from superweight.core.statistics import SEED
from superweight.model.gains import gains_of
from superweight.model.projections import Projection
from superweight.model.subject import Subject

# The paper's code prunes the top 1e-6 of each matrix: about 7,000 weights of Llama-7B.
PAPER_SHARE = 1e-6


def largest_of_each_matrix(
    subject: Subject, excluded: Collection[Coordinate], share: float = PAPER_SHARE
) -> tuple[Coordinate, ...]:
    """Return the largest weights of every MLP output projection, at least one of each."""
    chosen: list[Coordinate] = []
    for projection in subject.architecture.projections:
        count = math.ceil(share * projection.hidden * projection.intermediate)
        chosen += largest_of_matrix(projection, excluded, count)
    return distinct_from(chosen, excluded)


def largest_of_matrix(
    projection: Projection, excluded: Collection[Coordinate], count: int
) -> tuple[Coordinate, ...]:
    """Return the ``count`` largest weights of one output projection, ``excluded`` left out."""
    magnitudes = projection.matrix().abs().float()
    wanted = min(count + len(excluded), magnitudes.numel())
    order = torch.topk(magnitudes.flatten(), wanted).indices.tolist()
    places = (projection.at(*divmod(place, magnitudes.shape[1])) for place in order)
    chosen = [place for place in places if place not in excluded][:count]
    return distinct_from(chosen, excluded)


def random_of_same_matrices(
    subject: Subject, treated: Collection[Coordinate], per_weight: int
) -> tuple[Coordinate, ...]:
    """Return seeded random weights, ``per_weight`` for each treated one, from its own matrix."""
    generator = np.random.default_rng(SEED)
    chosen: set[Coordinate] = set()
    for coordinate in sorted(treated):
        projection = subject.architecture.projection(coordinate)
        target = len(chosen) + per_weight
        while len(chosen) < target:
            row, col = generator.integers(projection.hidden), generator.integers(projection.intermediate)
            chosen |= {projection.at(int(row), int(col))} - set(treated)
    return distinct_from(sorted(chosen), treated)


def largest_other_gains(subject: Subject, treated: Collection[GainCoordinate]) -> tuple[GainCoordinate, ...]:
    """Return, of each treated gain's norm, as many of its largest other gains as are treated in it."""
    chosen: list[GainCoordinate] = []
    for layer, norm in sorted({(place.layer, place.norm) for place in treated}):
        gains = gains_of(subject.architecture, layer, norm)
        own = {place.channel for place in treated if (place.layer, place.norm) == (layer, norm)}
        order = gains.values().abs().float().argsort(descending=True).tolist()
        others = [channel for channel in order if channel not in own][: len(own)]
        chosen += [gains.at(channel) for channel in others]
    return tuple(chosen)


def distinct_from(chosen: Iterable[Coordinate], treated: Collection[Coordinate]) -> tuple[Coordinate, ...]:
    """Return ``chosen``; raises `HarnessError` if it is empty or holds a treated coordinate."""
    control = tuple(chosen)
    if shared := set(control) & set(treated):
        raise HarnessError(f"the control prunes {min(shared)}, which is the treatment")
    if not control:
        raise HarnessError("the control prunes nothing, so it controls for nothing")
    return control
