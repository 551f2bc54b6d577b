"""Define the ways in which a model is changed to be measured, and the sets of them that claims need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from superweight.core.coordinates import Coordinate
from superweight.detection.detect import SuperActivation
from superweight.detection.scan import Scan
from superweight.measurement.controls import (
    largest_of_each_matrix,
    largest_of_matrix,
    largest_other_gains,
    random_of_same_matrices,
)
from superweight.measurement.corpus import WINDOW_TOKENS
from superweight.model.edits import Prune, Scale, ScaleGain
from superweight.model.subject import Subject

INTACT = "intact"
PRUNED = "pruned"
RESTORED_ACTIVATION = "pruned, activation restored"
OTHER_OUTLIERS = "largest others of each matrix"
SAME_MATRIX = "20 largest others of the same matrices"
RANDOM = "random others of the same matrices"
CANCELLERS = "cancellers pruned"
COMPANIONS = "super weights and companions"
GAINS = "gains of norms"
CHANNEL_GAINS = "gains of the channel in all blocks"
OTHER_GAINS = "largest others of the same norms"

# The grid of Figure 6, thinned; 0 is the pruned set and 1 the intact model.
SCALES = (0.25, 0.5, 0.8, 1.5, 2.0)
SAME_MATRIX_COUNT = 20
RANDOM_PER_WEIGHT = 10
# Each alone, and all but each, are measured of so many: those that make the largest parts.
SINGLES = 8


@dataclass(frozen=True)
class Condition:
    """One way to change a model: scalars and gains scaled, and super activations put back as they were."""

    name: str
    scales: tuple[Scale, ...] = ()
    restored: tuple[SuperActivation, ...] = ()
    gains: tuple[ScaleGain, ...] = ()

    @property
    def first_block(self) -> int:
        """The first block whose computation the condition changes."""
        layers = [edit.coordinate.layer for edit in self.scales]
        layers += [edit.coordinate.layer for edit in self.gains]
        return min(layers + [item.onset for item in self.restored])


def alone(index: int) -> str:
    return f"super weight {index} alone"


def all_but(index: int) -> str:
    return f"all but super weight {index}"


def scaled(factor: float) -> str:
    return f"scaled by {factor:g}"


def pruned(coordinates: Iterable[Coordinate]) -> tuple[Scale, ...]:
    return tuple(Prune(coordinate) for coordinate in coordinates)


def singled_out(found: Scan) -> list[int]:
    """Return the places of the super weights that are measured by themselves, at most `SINGLES` of them.

    Where there are more, those that make the largest part of the activation are: the first of each
    neuron, which writes all its scalars at once, before a second of any.
    """
    weights = found.super_weights
    order = sorted(range(len(weights)), key=lambda index: -weights[index].part)
    seen: Counter[tuple[int, int | None, int]] = Counter()
    turns = {}
    for index in order:
        place = weights[index].coordinate
        neuron = place.layer, place.expert, place.col
        turns[index] = seen[neuron]
        seen[neuron] += 1
    # Sorting keeps the order by parts within a turn.
    return sorted(sorted(order, key=turns.__getitem__)[:SINGLES])


def parts_of(found: Scan) -> list[Condition]:
    """Return the conditions that prune the core, each scalar of it alone, and what was found beside it.

    Companions are pruned with the core, gains by themselves.
    """
    whole = pruned(found.coordinates)
    conditions = [Condition(PRUNED, whole)] if whole else []
    if len(whole) > 1:
        conditions += [Condition(alone(index), (whole[index],)) for index in singled_out(found)]
    if whole and found.companions:
        beside = pruned(weight.coordinate for weight in found.companions)
        conditions.append(Condition(COMPANIONS, whole + beside))
    making, every = found.making_gains, found.gains
    if making:
        conditions.append(Condition(GAINS, gains=tuple(Prune(gain.coordinate) for gain in making)))
    if len(every) > len(making):
        conditions.append(Condition(CHANNEL_GAINS, gains=tuple(Prune(gain.coordinate) for gain in every)))
    return conditions


def treatments(found: Scan) -> list[Condition]:
    """Return the conditions that change the super weights: as a set, one by one, by degrees."""
    whole = pruned(found.coordinates)
    conditions = parts_of(found)
    if len(whole) > 2:  # of two, all but one is the other one alone
        conditions += [
            Condition(all_but(index), whole[:index] + whole[index + 1 :]) for index in singled_out(found)
        ]
    conditions += [
        Condition(scaled(factor), tuple(Scale(coordinate, factor) for coordinate in found.coordinates))
        for factor in SCALES
    ]
    within = restorable(found)
    return conditions + ([Condition(RESTORED_ACTIVATION, whole, restored=within)] if within else [])


def restorable(found: Scan) -> tuple[SuperActivation, ...]:
    """Return the super activations at tokens that the windows of a corpus reach."""
    return tuple(item for item in found.super_activations if item.token < WINDOW_TOKENS)


def controls(subject: Subject, found: Scan) -> list[Condition]:
    """Return the conditions that change other scalars; those with nothing to change are left out."""
    same = [
        coordinate
        for layer, expert in dict.fromkeys((place.layer, place.expert) for place in found.coordinates)
        for coordinate in largest_of_matrix(
            subject.architecture.writer(layer, expert), found.coordinates, SAME_MATRIX_COUNT
        )
    ]
    chosen = {
        OTHER_OUTLIERS: largest_of_each_matrix(subject, found.coordinates),
        SAME_MATRIX: same,
        RANDOM: random_of_same_matrices(subject, found.coordinates, RANDOM_PER_WEIGHT),
        CANCELLERS: [canceller.coordinate for canceller in found.cancellers],
    }
    conditions = [Condition(name, pruned(coordinates)) for name, coordinates in chosen.items() if coordinates]
    if found.making_gains:
        others = largest_other_gains(subject, [gain.coordinate for gain in found.gains])
        making = {(gain.coordinate.layer, gain.coordinate.norm) for gain in found.making_gains}
        own = tuple(Prune(place) for place in others if (place.layer, place.norm) in making)
        conditions.append(Condition(OTHER_GAINS, gains=own))
    return conditions
