"""P2: prune any subset in any order, restore in any other: every bit comes back."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, suppress

import torch
from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from superweight.claims.evidence import Evidence
from superweight.claims.properties.search import (
    Budget,
    CounterexampleFound,
    Finding,
    Search,
    database_of,
    quiet,
    seed_of,
    verdict_of,
)
from superweight.claims.verdict import Claim, Verdict, not_applicable
from superweight.core.coordinates import Coordinate
from superweight.measurement.corpus import default_prompt
from superweight.model.edits import ROUNDINGS, Scale, edited
from superweight.model.subject import Subject

CLAIM = Claim(
    "P2", "Any subset, pruned in any order and restored in any other, gives every bit back.", "section 3.2"
)
STEPS = 6
SEARCHED = "in edits and restorations"
RESTORED = "every bit came back"
_FACTORS = st.sampled_from([0.0, 0.5, 1.0, -1.0, 2.0])


class Interruption(Exception):
    """What is raised between an edit and its end, to see whether the end undoes it all the same."""


def judge(evidence: Evidence, budget: Budget) -> Verdict:
    """Let hypothesis prune, scale, restore and interrupt; compare logits and scalars bit for bit."""
    places = sorted(evidence.scan.coordinates)
    if not places:
        return not_applicable(CLAIM, "no super weight is found")
    bench = _Bench(evidence.subject, places)
    name = f"P2 {evidence.subject.name}"
    database = database_of(name, budget)
    phases = (Phase.generate, Phase.shrink, *([Phase.reuse] if database else []))
    chosen = settings(quiet(budget), stateful_step_count=STEPS, phases=phases, database=database)
    machine = seed(seed_of(name, budget))(_machine(bench))
    # What an edit left behind may stay, and then no second run is like the first: hypothesis calls that
    # flaky, and the bench has the shortest that was seen.
    with suppress(CounterexampleFound, Flaky):
        run_state_machine_as_test(machine, settings=chosen)
    bench.reset()
    return verdict_of(CLAIM, {SEARCHED: bench.found})


class _Bench:
    """A model, what it answers untouched, and the comparisons with that."""

    def __init__(self, subject: Subject, places: list[Coordinate]) -> None:
        self.subject, self.places = subject, places
        self._ids = torch.tensor([subject.encode(default_prompt())], device=subject.device)
        self._untouched = self.logits()
        self._stored = self.values()
        # Of packed matrices there is nothing to write back.
        weights = [subject.architecture.projection(place) for place in places]
        shown = {id(item.module): item.weight() for item in weights if item.writable}
        self._copies = [(weight, weight.clone()) for weight in shown.values()]
        self._compared: set[tuple[Coordinate, float]] = set()
        self.outcomes: Counter[str] = Counter()
        self.smallest: Finding | None = None

    def compared(self, place: Coordinate, factor: float) -> bool:
        """Tell whether both ways of this edit were compared before: the outcome would be the same."""
        seen = (place, factor) in self._compared
        self._compared.add((place, factor))
        return seen

    def reset(self) -> None:
        """Write back the matrices of the set, as they were at the beginning."""
        for weight, copy in self._copies:
            weight.copy_(copy)

    def logits(self) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = self.subject.model(input_ids=self._ids, use_cache=False).logits
        return logits

    def values(self) -> list[float]:
        return [self.subject.architecture.value(place) for place in self.places]

    def unchanged(self) -> bool:
        """Tell whether the scalars of the set are what they were, bit for bit."""
        return self.values() == self._stored

    def restored(self) -> bool:
        """Tell whether scalars and logits are the untouched ones, bit for bit."""
        return self.unchanged() and torch.equal(self.logits(), self._untouched)

    def close(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        """Tell whether two answers differ by rounding alone; the sum over a row's inputs rounds often."""
        step = torch.finfo(self.subject.model.dtype).eps
        allowed = (
            ROUNDINGS * step * len(self.subject.architecture.blocks) * float(self._untouched.abs().max())
        )
        return float((one - other).abs().max()) <= allowed

    def keep(self, finding: Finding) -> None:
        """Keep a counterexample if none with fewer steps was seen."""
        if self.smallest is None or _steps(finding) < _steps(self.smallest):
            self.smallest = finding

    @property
    def found(self) -> Search:
        smallest = self.smallest.counterexample if self.smallest else None
        return Search(sum(self.outcomes.values()), dict(self.outcomes), smallest)


def _steps(finding: Finding) -> int:
    return len((finding.counterexample or {}).get("steps", ()))


def _machine(bench: _Bench) -> type[RuleBasedStateMachine]:
    """Return a machine over one model, with the edits in force as its state."""

    class Edits(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            bench.reset()
            self.in_force: dict[Coordinate, AbstractContextManager[None]] = {}
            self.steps: list[str] = []

        @rule(place=st.sampled_from(bench.places), factor=_FACTORS, by_output=st.booleans())
        def scale(self, place: Coordinate, factor: float, by_output: bool) -> None:
            if place in self.in_force:
                return
            context = edited(bench.subject, [Scale(place, factor)], by_hook=by_output)
            self.steps.append(f"scale {place} by {factor:g}{' in the output' if by_output else ''}")
            context.__enter__()
            self.in_force[place] = context
            if factor == 1.0 and len(self.in_force) == 1 and not by_output and not bench.unchanged():
                self.fail("scaling by 1 changed something")

        @precondition(lambda self: self.in_force)
        @rule(choice=st.integers(0, 99))
        def restore(self, choice: int) -> None:
            place = sorted(self.in_force)[choice % len(self.in_force)]
            self.steps.append(f"restore {place}")
            self.in_force.pop(place).__exit__(None, None, None)

        @rule(place=st.sampled_from(bench.places), factor=_FACTORS)
        def interrupt(self, place: Coordinate, factor: float) -> None:
            if self.in_force:
                return
            self.steps.append(f"scale {place} by {factor:g} and raise")
            with suppress(Interruption), edited(bench.subject, [Scale(place, factor)]):
                raise Interruption
            if not bench.unchanged():
                self.fail("an exception left something changed")

        @rule(place=st.sampled_from(bench.places), factor=_FACTORS)
        def compare_ways(self, place: Coordinate, factor: float) -> None:
            if self.in_force:
                return
            self.steps.append(f"scale {place} by {factor:g} by weight and by output")
            if bench.compared(place, factor):
                return
            with edited(bench.subject, [Scale(place, factor)]):
                by_weight = bench.logits()
            with edited(bench.subject, [Scale(place, factor)], by_hook=True):
                by_output = bench.logits()
            if not bench.close(by_weight, by_output):
                self.fail("editing the weight and editing the output differ by more than rounding")

        def teardown(self) -> None:
            for place in list(self.in_force):
                self.in_force.pop(place).__exit__(None, None, None)
            if not bench.restored():
                self.fail("not every bit came back")
            bench.outcomes[RESTORED] += 1

        def fail(self, why: str) -> None:
            finding = Finding(why, {"steps": list(self.steps), "seen": why})
            bench.keep(finding)
            raise CounterexampleFound(finding)

    return Edits
