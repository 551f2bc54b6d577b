"""Search for a counterexample: draw examples, judge them together, shrink the first that fails."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase
from hypothesis.strategies import SearchStrategy

from superweight.claims.verdict import AT_MOST, Claim, Verdict, counted, judged

DEFAULT_EXAMPLES = 25
SLOW_EXAMPLES = 200
# No counterexample is allowed: each property speaks of every example.
NONE_FOUND = 0.0

E = TypeVar("E")


@dataclass(frozen=True)
class Budget:
    """How much is searched: ``examples`` draws, the same in every run where ``derandomize`` is set.

    ``database`` is the folder in which failing examples are kept for the next run; None keeps none.
    """

    examples: int = DEFAULT_EXAMPLES
    derandomize: bool = True
    database: Path | None = None


@dataclass(frozen=True)
class Finding:
    """What one example showed: an ``outcome``, and for a counterexample everything a person needs.

    ``counterexample`` has JSON values; None says that the property is as it should be.
    """

    outcome: str
    counterexample: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Search:
    """The result: how many examples had which outcome, and the smallest counterexample if there is one."""

    examples: int
    outcomes: Mapping[str, int] = field(default_factory=dict)
    counterexample: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values, as a report has them."""
        counts = {"examples": self.examples, "outcomes": dict(self.outcomes)}
        smallest = self.counterexample
        return counts if smallest is None else {**counts, "counterexample": dict(smallest)}


class CounterexampleFound(AssertionError):
    """Raised inside hypothesis, which then looks for a smaller one."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.outcome)
        self.finding = finding


class _Examples(Generic[E]):
    """Findings by example: those of one batch, and those that shrinking asks for one by one."""

    def __init__(self, judge_all: Callable[[Sequence[E]], Sequence[Finding]]) -> None:
        self._judge_all = judge_all
        self._drawn: dict[str, E] = {}
        self._found: dict[str, Finding] = {}
        self.order: list[str] = []

    def collect(self, example: E) -> None:
        self._drawn.setdefault(repr(example), example)
        self.order.append(repr(example))

    def judge_collected(self) -> None:
        found = self._judge_all(list(self._drawn.values()))
        self._found = dict(zip(self._drawn, found, strict=True))

    def finding(self, example: E) -> Finding:
        key = repr(example)
        if key not in self._found:
            (self._found[key],) = self._judge_all([example])
        return self._found[key]

    def check(self, example: E) -> None:
        finding = self.finding(example)
        if finding.counterexample is not None:
            raise CounterexampleFound(finding)

    def outcomes(self) -> dict[str, int]:
        return dict(Counter(self._found[key].outcome for key in self.order if key in self._found))


def search(
    name: str,
    strategy: SearchStrategy[E],
    judge_all: Callable[[Sequence[E]], Sequence[Finding]],
    budget: Budget,
) -> Search:
    """Draw ``budget.examples`` examples, judge all of them at once, and shrink a counterexample.

    ``name`` tells properties and models apart: it seeds the draws and names the place of examples that
    failed before, which come first.
    """
    examples = _Examples(judge_all)
    run = _runner(name, strategy, budget)
    run(examples.collect, (Phase.generate,), None)
    examples.judge_collected()
    outcomes, count = examples.outcomes(), len(examples.order)
    try:
        run(examples.check, (Phase.reuse, Phase.generate, Phase.shrink), database_of(name, budget))
    except CounterexampleFound as smallest:
        return Search(count, outcomes, smallest.finding.counterexample)
    return Search(count, outcomes)


Body = Callable[[Any], None]


def _runner(
    name: str, strategy: SearchStrategy[Any], budget: Budget
) -> Callable[[Body, tuple[Phase, ...], ExampleDatabase | None], None]:
    """Return what lets a function see examples, the same ones each time."""
    number = seed_of(name, budget)

    def run(body: Body, phases: tuple[Phase, ...], database: ExampleDatabase | None) -> None:
        @settings(quiet(budget), phases=phases, database=database)
        @seed(number)
        @given(strategy)
        def examples(example: Any) -> None:
            body(example)

        examples()

    return run


def quiet(budget: Budget) -> settings:
    """Return hypothesis's settings: a model takes its time, and the counterexample is told elsewhere."""
    return settings(
        max_examples=budget.examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )


def seed_of(name: str, budget: Budget) -> int:
    """Return the seed of a property's draws: of its name alone, or a new one in every run."""
    if budget.derandomize:
        return zlib.crc32(name.encode())
    import secrets

    return secrets.randbits(32)


def database_of(name: str, budget: Budget) -> ExampleDatabase | None:
    if budget.database is None:
        return None
    return DirectoryBasedExampleDatabase(budget.database / f"{zlib.crc32(name.encode()):08x}")


def verdict_of(claim: Claim, searches: Mapping[str, Search], **evidence: Any) -> Verdict:
    """Return the verdict of one or more searches: refuted by one counterexample, supported without any.

    How many examples there were and what they showed differs from run to run: it is shown and never
    compared with a baseline.
    """
    criteria = [
        counted(f"counterexamples {name}", float(found.counterexample is not None), NONE_FOUND, AT_MOST)
        for name, found in searches.items()
    ]
    verdict = judged(claim, *criteria, **evidence)
    refuted = [(name, found.counterexample) for name, found in searches.items() if found.counterexample]
    reason = f"no counterexample in {sum(found.examples for found in searches.values())} examples"
    if refuted:
        name, smallest = refuted[0]
        told = ", ".join(f"{key} {value!r}" for key, value in smallest.items())
        reason = f"smallest counterexample {name}: {told}"
    return replace(
        verdict, reason=reason, examples={name: found.as_dict() for name, found in searches.items()}
    )
