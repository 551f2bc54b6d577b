"""Group-sequential evaluation: measure 8, 16, 24, 32, then 48 windows; stop once a verdict is decided."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from superweight.core.statistics import looks
from superweight.measurement.conditions import INTACT, Condition
from superweight.measurement.corpus import Windows
from superweight.measurement.evaluate import Measurement, Values, joined, measure
from superweight.model.subject import Subject


@dataclass(frozen=True)
class Look:
    """What conditions did on the first ``windows`` windows, by name, the intact model among them.

    A condition that was not read on was measured on fewer windows, the first of them.
    """

    windows: int
    measurements: Mapping[str, Measurement]

    def nll_increase(self, condition: str) -> Values:
        """Return the mean rise of NLL in each window that the condition was measured on, in nats."""
        nll = self.measurements[condition].nll
        rise: Values = (nll - self.reference(condition).nll[: len(nll)]).mean(axis=1)
        return rise

    def reference(self, condition: str) -> Measurement:
        """Return what a condition is compared with: the intact model, or what an engine puts beside it."""
        return self.measurements[condition].reference or self.measurements[INTACT]


# Names the conditions that a test needs on more windows than a look has; none once it is decided.
Needs = Callable[[Look], Collection[str]]

# Measures conditions on windows, with tracked ids, and in detail those that are named.
Measure = Callable[
    [Windows, Sequence[Condition], Sequence[int], Collection[str] | None], dict[str, Measurement]
]


class SequentialEvaluation:
    """The looks at one subject. The first measures every condition at once, later ones what is in doubt.

    ``details`` are the conditions whose predictions are measured beyond the NLL: KL, agreement, tracked
    tokens. Left out, all are. ``tests`` are what else is to be decided on the same subject: whenever one
    test reads on, a stretch of windows is measured for all that are in doubt, in one pass. ``affords``
    tells whether there is time for so many token-blocks more: where there is not, the looks end early.
    """

    def __init__(
        self,
        subject: Subject,
        windows: Windows,
        conditions: Sequence[Condition],
        tracked_ids: Sequence[int],
        by: Measure | None = None,
        *,
        details: Collection[str] | None = None,
        tests: Iterable[Needs] = (),
        affords: Callable[[float], bool] = lambda token_blocks: True,
    ) -> None:
        """Look at conditions ``by`` what measures them; left out, by the subject in transformers."""
        self._by: Measure = by or self._in_transformers
        self._subject = subject
        self._windows = windows.shuffled()
        self._conditions = conditions
        self._tracked_ids = tracked_ids
        self._details = details
        self._tests = tuple(tests)
        self._affords = affords
        self._stretches = tuple(pairwise((0, *looks(len(windows.ids)))))
        self._parts: dict[str, list[Measurement]] = {}

    def first(self) -> Look:
        """Return what every condition did on the fewest windows."""
        return next(self.at([]))

    def at(self, names: Collection[str]) -> Iterator[Look]:
        """Yield the looks at some conditions, each with more windows than the last.

        Those that the subject has no such condition for are left out.
        """
        return self.follow(lambda _: names)

    def follow(self, needs: Needs) -> Iterator[Look]:
        """Yield the looks of one test, to the end of the text: what it needs, and what it needed before.

        What was needed in the first look alone is in later ones as it was there.
        """
        reading = _Reading(needs)
        for stage in range(len(self._stretches)):
            names = self._needed(reading, stage)
            if stage and not self._affords(self._cost(stage, names)):
                return
            riding = {name for test in self._tests for name in self._in_doubt(test, stage)}
            self._measure(stage, names | riding)
            yield self._advance(reading, stage, names)

    @property
    def windows(self) -> int:
        """How many windows there are to be read."""
        return len(self._windows.ids)

    def _cost(self, stage: int, names: Collection[str]) -> float:
        """Return the token-blocks of what is missing of a stretch, the intact model's among them."""
        blocks = len(self._subject.architecture.blocks)
        missing = [
            item for item in self._conditions if item.name in names and not self._has(item.name, stage)
        ]
        begin, end = self._stretches[stage]
        each = blocks + sum(blocks - item.first_block for item in missing)
        # What was measured for another test costs nothing.
        return (
            0.0
            if not missing and self._has(INTACT, stage)
            else (end - begin) * self._windows.ids.shape[1] * each
        )

    def _has(self, name: str, stage: int) -> bool:
        return len(self._parts.get(name, [])) > stage

    def measured(self, names: Collection[str]) -> Look | None:
        """Return the widest look that has been had at all of ``names``, or None; nothing is measured."""
        parts = {name: self._parts.get(name, []) for name in {INTACT, *names}}
        stages = min(map(len, parts.values()))
        if stages == 0:
            return None
        return self._look(dict.fromkeys(parts, stages), stages - 1)

    def had(self, needs: Needs) -> Look | None:
        """Return the last look that one test has had, as it had it, or None; nothing is measured."""
        reading = _Reading(needs)
        for stage in range(len(self._stretches)):
            names = self._needed(reading, stage)
            if not names or not all(self._has(name, stage) for name in {INTACT, *names}):
                break
            self._advance(reading, stage, names)
        return reading.look

    def intact(self, windows: int | None = None) -> Values:
        """Return the mean NLL of the intact model in every window, in the order of the looks: (windows,).

        Of the first ``windows``, if a number is given. What was measured for a look is not measured again.
        """
        count = len(self._windows.ids) if windows is None else windows
        for stage, (begin, _) in enumerate(self._stretches):
            if begin < count:
                self._measure(stage, set())
        losses: Values = joined(self._parts[INTACT]).nll.mean(axis=1)[:count]
        return losses

    def _in_transformers(
        self,
        windows: Windows,
        conditions: Sequence[Condition],
        tracked_ids: Sequence[int],
        details: Collection[str] | None,
    ) -> dict[str, Measurement]:
        return measure(self._subject, windows, conditions, tracked_ids, details=details)

    def _needed(self, reading: _Reading, stage: int) -> set[str]:
        known = {condition.name for condition in self._conditions}
        return known if reading.look is None or stage == 0 else known & {*reading.needs(reading.look)}

    def _in_doubt(self, test: Needs, stage: int) -> set[str]:
        """Return what another test needs of a stretch, going by what has been measured before it."""
        reading = _Reading(test)
        for earlier in range(stage):
            names = self._needed(reading, earlier)
            if not names or not all(self._has(name, earlier) for name in names):
                return set()
            self._advance(reading, earlier, names)
        return self._needed(reading, stage) if stage else set()

    def _advance(self, reading: _Reading, stage: int, names: Collection[str]) -> Look:
        reading.stages |= dict.fromkeys({INTACT, *names}, stage + 1)
        reading.look = self._look(reading.stages, stage)
        return reading.look

    def _look(self, stages: Mapping[str, int], stage: int) -> Look:
        parts = {name: joined(self._parts[name][:count]) for name, count in stages.items()}
        return Look(self._stretches[stage][1], parts)

    def _measure(self, last: int, names: Collection[str]) -> None:
        """Measure whatever is missing of some conditions, and of the intact model, up to a stretch."""
        for stage in range(last + 1):
            missing = [
                condition
                for condition in self._conditions
                if condition.name in names and not self._has(condition.name, stage)
            ]
            if not missing and self._has(INTACT, stage):
                continue
            stretch = Windows(self._windows.ids[slice(*self._stretches[stage])], self._windows.corpus)
            found = self._by(stretch, missing, self._tracked_ids, self._details)
            for name, measurement in found.items():
                known = self._parts.setdefault(name, [])
                if len(known) <= stage:
                    known.append(measurement)


class _Reading:
    """How far one test has read: its last look, and how many stretches of each condition are in it."""

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.look: Look | None = None
        self.stages: dict[str, int] = {}


def in_stretches(
    measured: Callable[[torch.Tensor], Mapping[str, Values]],
    ids: torch.Tensor,
    counts: Sequence[int],
    affords: Callable[[int], bool] = lambda windows: True,
) -> Iterator[tuple[int, dict[str, Values]]]:
    """Yield what is measured of the first windows, for each of some rising numbers of them.

    ``ids``: (windows, tokens). Each stretch of windows is measured once, when its look is had. ``affords``
    tells whether there is time for so many windows more: where there is not, the first look is the last.
    """
    parts: dict[str, list[Values]] = {}
    for begin, end in pairwise((0, *counts)):
        if begin and not affords(end - begin):
            return
        for name, values in measured(ids[begin:end]).items():
            parts.setdefault(name, []).append(values)
        yield end, {name: np.concatenate(part) for name, part in parts.items()}
