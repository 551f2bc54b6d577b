"""Group-sequential evaluation: measure 8, 16, 32, then 48 windows and stop once the verdict is decided."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from superweight.core.statistics import looks
from superweight.measurement.conditions import INTACT, Condition
from superweight.measurement.corpus import Windows
from superweight.measurement.evaluate import Measurement, Values, joined, measure
from superweight.model.subject import Subject


@dataclass(frozen=True)
class Look:
    """What conditions did on the first ``windows`` windows, by name, the intact model among them."""

    windows: int
    measurements: Mapping[str, Measurement]

    def nll_increase(self, condition: str) -> Values:
        """Return the mean rise of NLL in each window, in nats: (windows,)."""
        rise: Values = self.measurements[condition].nll - self.reference(condition).nll
        return np.asarray(rise.mean(axis=1))

    def reference(self, condition: str) -> Measurement:
        """Return what a condition is compared with: the intact model, or what an engine puts beside it."""
        return self.measurements[condition].reference or self.measurements[INTACT]


Measure = Callable[[Windows, Sequence[Condition], Sequence[int]], dict[str, Measurement]]


class SequentialEvaluation:
    """The looks at one subject. The first measures every condition at once, later ones what is asked for."""

    def __init__(
        self,
        subject: Subject,
        windows: Windows,
        conditions: Sequence[Condition],
        tracked_ids: Sequence[int],
        by: Measure | None = None,
    ) -> None:
        """Look at conditions ``by`` what measures them; left out, by the subject in transformers."""
        self._by: Measure = by or partial(measure, subject)
        self._windows = windows.shuffled()
        self._conditions = conditions
        self._tracked_ids = tracked_ids
        self._stretches = tuple(pairwise((0, *looks(len(windows.ids)))))
        self._parts: dict[str, list[Measurement]] = {}

    def first(self) -> Look:
        """Return what every condition did on the fewest windows."""
        return next(self.at([]))

    def at(self, names: Collection[str]) -> Iterator[Look]:
        """Yield the looks at some conditions, each with more windows than the last.

        Those that the subject has no such condition for are left out.
        """
        known = [condition for condition in self._conditions if condition.name in {*names}]
        for stage, (_, windows) in enumerate(self._stretches):
            wanted = self._conditions if stage == 0 else known
            self._measure(stage, wanted)
            parts = {name: self._parts[name] for name in [INTACT, *(item.name for item in wanted)]}
            yield Look(windows, {name: joined(part[: stage + 1]) for name, part in parts.items()})

    def measured(self, names: Collection[str]) -> Look | None:
        """Return the widest look that has been had at all of ``names``, or None; nothing is measured."""
        parts = {name: self._parts.get(name, []) for name in {INTACT, *names}}
        stages = min(map(len, parts.values()))
        if stages == 0:
            return None
        _, windows = self._stretches[stages - 1]
        return Look(windows, {name: joined(part[:stages]) for name, part in parts.items()})

    def intact(self) -> Values:
        """Return the mean NLL of the intact model in every window, in the order of the looks: (windows,).

        What was measured for a look is not measured again.
        """
        for stage in range(len(self._stretches)):
            self._measure(stage, [])
        losses: Values = joined(self._parts[INTACT]).nll.mean(axis=1)
        return losses

    def _measure(self, stage: int, wanted: Sequence[Condition]) -> None:
        missing = [item for item in wanted if len(self._parts.get(item.name, [])) <= stage]
        if not missing and len(self._parts.get(INTACT, [])) > stage:
            return
        stretch = Windows(self._windows.ids[slice(*self._stretches[stage])], self._windows.corpus)
        for name, measurement in self._by(stretch, missing, self._tracked_ids).items():
            known = self._parts.setdefault(name, [])
            if len(known) <= stage:
                known.append(measurement)
