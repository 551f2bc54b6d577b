"""Define claims, criteria and verdicts."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from superweight.core.errors import HarnessError
from superweight.core.notebook import html_table
from superweight.core.readable import readable
from superweight.core.statistics import Interval, exactly

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
NOT_APPLICABLE = "not applicable"

AT_LEAST, AT_MOST = "at least", "at most"


@dataclass(frozen=True)
class Claim:
    """One claim of the paper: its number here, its sentence in our words, its place there.

    ``relation`` marks a claim about a model and its base: the base itself has no verdict on it that a
    release could be held to. ``of_predictions`` marks one whose statistic is of predictions or of text: the
    engine that runs the model is asked for it, and of all else the pass of transformers tells.
    """

    id: str
    sentence: str
    place: str
    relation: bool = False
    of_predictions: bool = False


@dataclass(frozen=True)
class Measured:
    """A number that may differ a little between machines: by ``within``, absolutely, and no more."""

    value: float
    within: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and math.isfinite(self.within) and self.within >= 0):
            raise HarnessError(f"{self.value} +- {self.within} is no measurement; something broke")


# Kernels of another instruction set and thread count add in another order. The real model's
# baselines, made on two threads with AVX-512, hold on one thread with AVX2 (docs/claims.md has
# the command); two per cent leaves room for other processors and hides no change of verdict.
RELATIVE_TOLERANCE = 0.02


def measured(value: float, relative: float = RELATIVE_TOLERANCE, absolute: float = 1e-9) -> Measured:
    """Return a number with the larger of two tolerances, which a baseline states beside it.

    Raises `HarnessError` for a tolerance below zero: the other one would hide the slip.
    """
    if min(relative, absolute) < 0:
        raise HarnessError(f"a tolerance of {min(relative, absolute)} means nothing")
    return Measured(float(value), max(relative * abs(float(value)), absolute))


@dataclass(frozen=True)
class Criterion:
    """One statistic held against one threshold; its interval decides.

    Refuses thresholds and statistics that are NaN or infinite: every comparison with them passes.
    """

    name: str
    statistic: Measured
    interval: Interval
    threshold: float
    direction: str

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise HarnessError(f"threshold {self.threshold} of {self.name!r} would pass everything")
        if self.direction not in (AT_LEAST, AT_MOST):
            raise HarnessError(f"direction {self.direction!r} of {self.name!r} is neither way")

    @property
    def status(self) -> str:
        low, high = self.interval.low, self.interval.high
        if self.direction == AT_MOST:
            low, high = -high, -low
        threshold = self.threshold if self.direction == AT_LEAST else -self.threshold
        if low >= threshold:
            return SUPPORTED
        return REFUTED if high < threshold else INCONCLUSIVE


def counted(name: str, count: float, threshold: float, direction: str) -> Criterion:
    """Return a criterion over something counted or compared exactly."""
    return Criterion(name, Measured(float(count), 0.0), exactly(float(count)), threshold, direction)


@dataclass(frozen=True, repr=False)
class Verdict:
    """What the evidence says of a claim: a status, and everything it rests on.

    ``evidence`` holds JSON values; floats that were measured stand in `Measured`. ``examples`` is what
    a property's examples showed: it differs from run to run, and no baseline has it. ``engine`` names the
    engine that the statistic comes from. ``unmet`` says what the claim would need where a budget ended
    before it was decided, or the text did while the base's verdict is decided: nothing is held against it.
    """

    claim: Claim
    status: str
    reason: str
    criteria: tuple[Criterion, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    examples: Mapping[str, Any] = field(default_factory=dict)
    engine: str = "transformers"
    unmet: str = ""

    @property
    def deciding(self) -> Criterion | None:
        """The criterion that the status comes from: the first that is not supported, or the first."""
        unmet = [criterion for criterion in self.criteria if criterion.status == self.status]
        return next(iter(unmet or self.criteria), None)

    def __repr__(self) -> str:
        return f"{self.claim.id} {self.status}: {self.reason}"

    def _repr_html_(self) -> str:
        rows = [
            (
                criterion.name,
                criterion.status,
                readable(criterion.statistic.value),
                f"{readable(criterion.interval.low)} to {readable(criterion.interval.high)}",
                f"{criterion.direction} {readable(criterion.threshold)}",
            )
            for criterion in self.criteria
        ]
        columns = ("criterion", "status", "measured", "interval", "threshold")
        return html_table(f"{self!r} ({self.claim.sentence})", columns, rows)


def judged(claim: Claim, *criteria: Criterion, **evidence: Any) -> Verdict:
    """Return the verdict over criteria that must all hold."""
    statuses = [criterion.status for criterion in criteria]
    if not statuses:
        raise HarnessError(f"{claim.id} was judged by nothing")
    status = worst(statuses)
    deciding = criteria[statuses.index(status)]
    low, high = deciding.interval.low, deciding.interval.high
    spread = "" if low == high else f" [{readable(low)}, {readable(high)}]"
    reason = (
        f"{deciding.name} is {readable(deciding.statistic.value)}{spread}; "
        f"supported when {deciding.direction} {readable(deciding.threshold)}"
    )
    return Verdict(claim, status, reason, criteria, evidence)


def worst(statuses: Collection[str]) -> str:
    """Return the status of a verdict over criteria of these statuses, which must all hold."""
    return next((status for status in (REFUTED, INCONCLUSIVE) if status in statuses), SUPPORTED)


def not_applicable(claim: Claim, reason: str) -> Verdict:
    """Return the verdict over a claim that says nothing about this model."""
    return Verdict(claim, NOT_APPLICABLE, reason)
