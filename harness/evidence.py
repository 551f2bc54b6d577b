"""Everything the claims need to know about one subject, each thing measured once and shared."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from harness.controls import largest_of_each_matrix, largest_of_matrix, random_of_same_matrices
from harness.corpus import Windows, continuations, cut, default_prompt, documents, prompts
from harness.detection import Detection, detect
from harness.editing import Prune, Scale, edited
from harness.generation import Continuation, continue_greedily, nll_of
from harness.loading import Subject
from harness.measuring import INTACT, Condition, Measurement, Values, measure
from harness.scanning import Scan, scan
from harness.trace import Trace, trace_batch
from harness.vocabulary import Vocabulary, classify

PRUNED = "pruned"
RESTORED_ACTIVATION = "pruned, activation restored"
OTHER_OUTLIERS = "largest others of each matrix"
SAME_MATRIX = "20 largest others of the same matrices"
RANDOM = "random others of the same matrices"
CANCELLERS = "cancellers pruned"

# The grid of Figure 6, thinned; 0 is the pruned set and 1 the intact model.
SCALES = (0.25, 0.5, 0.8, 1.5, 2.0)
SAME_MATRIX_COUNT = 20
RANDOM_PER_WEIGHT = 10


def alone(index: int) -> str:
    return f"super weight {index} alone"


def all_but(index: int) -> str:
    return f"all but super weight {index}"


def scaled(factor: float) -> str:
    return f"scaled by {factor:g}"


class Evidence:
    """What was measured of one subject; every property is computed on first use."""

    def __init__(self, subject: Subject, corpus: str, base: Scan | None = None) -> None:
        self.subject = subject
        self.corpus = corpus
        self.base = base

    @cached_property
    def scan(self) -> Scan:
        return scan(self.subject, default_prompt())

    @cached_property
    def intact_traces(self) -> dict[str, Trace]:
        return self._traces()

    @cached_property
    def pruned_traces(self) -> dict[str, Trace]:
        with edited(self.subject, self.pruned_set):
            return self._traces()

    @cached_property
    def detections(self) -> dict[str, Detection]:
        """What every prompt shows by itself."""
        return {name: detect(trace) for name, trace in self.intact_traces.items()}

    @property
    def pruned_set(self) -> tuple[Scale, ...]:
        return tuple(Prune(coordinate) for coordinate in self.scan.coordinates)

    @cached_property
    def windows(self) -> Windows:
        return cut(self.subject, documents(self.corpus), self.corpus)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return classify(self.subject, self.windows)

    @cached_property
    def measurements(self) -> dict[str, Measurement]:
        """The intact model and every condition that some claim needs, on the same windows."""
        return measure(self.subject, self.windows, self._conditions(), self.vocabulary.tracked)

    def damage(self, condition: str) -> Values:
        """Return the mean rise of NLL in each window, in nats: (windows,)."""
        rise: Values = self.measurements[condition].nll - self.measurements[INTACT].nll
        return np.asarray(rise.mean(axis=1))

    @cached_property
    def intact_writing(self) -> tuple[Continuation, ...]:
        return continue_greedily(self.subject, list(continuations().values()))

    @cached_property
    def pruned_writing(self) -> tuple[Continuation, ...]:
        with edited(self.subject, self.pruned_set):
            return continue_greedily(self.subject, list(continuations().values()))

    def judged_by_intact(self, writing: Sequence[Continuation]) -> list[float]:
        """Return the NLL per token that the intact model gives to each continuation."""
        return nll_of(self.subject, writing)

    def _traces(self) -> dict[str, Trace]:
        encoded = [self.subject.encode(text) for text in prompts().values()]
        return dict(zip(prompts(), trace_batch(self.subject, encoded), strict=True))

    def _conditions(self) -> list[Condition]:
        found = self.scan.coordinates
        conditions = [Condition(PRUNED, self.pruned_set)]
        if len(found) > 1:
            conditions += [
                Condition(alone(index), (Prune(coordinate),)) for index, coordinate in enumerate(found)
            ]
        if len(found) > 2:  # of two, all but one is the other one alone
            conditions += [
                Condition(all_but(index), self.pruned_set[:index] + self.pruned_set[index + 1 :])
                for index in range(len(found))
            ]
        conditions += [
            Condition(scaled(factor), tuple(Scale(coordinate, factor) for coordinate in found))
            for factor in SCALES
        ]
        conditions.append(
            Condition(RESTORED_ACTIVATION, self.pruned_set, restored=self.scan.super_activations)
        )
        return conditions + self._controls()

    def _controls(self) -> list[Condition]:
        found = self.scan.coordinates
        same = [
            coordinate
            for layer, expert in dict.fromkeys((place.layer, place.expert) for place in found)
            for coordinate in largest_of_matrix(
                self.subject.anatomy.writer(layer, expert), found, SAME_MATRIX_COUNT
            )
        ]
        chosen = {
            OTHER_OUTLIERS: largest_of_each_matrix(self.subject, found),
            SAME_MATRIX: same,
            RANDOM: random_of_same_matrices(self.subject, found, RANDOM_PER_WEIGHT),
            CANCELLERS: [canceller.coordinate for canceller in self.scan.cancellers],
        }
        return [
            Condition(name, tuple(Prune(coordinate) for coordinate in coordinates))
            for name, coordinates in chosen.items()
            if coordinates
        ]
