"""Define the result of a comparison, and write it as text and Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from superweight.core.errors import HarnessError
from superweight.core.markdown import cell, table
from superweight.core.notebook import html_table

KEPT, DAMAGED, NOT_COMPARABLE = "kept", "damaged", "not comparable"
# Could not be looked at here: no package, too little memory, an unknown form. Never called damage.
CANNOT_JUDGE = "cannot be judged"
# Neither is damage: measurably worse than the base; other than the base, and whether that matters is
# for a deeper look to say.
DEGRADED, CHANGED = "degraded", "changed"

STATIC, ACTIVATIONS, QUALITY = "static", "activations", "quality"
DEPTHS = (STATIC, ACTIVATIONS, QUALITY)

# Of a fault that no limit measures: a tensor that is missing is worse than any number.
WORST = math.inf


# What runs a model where nothing else is said.
_ENGINE = "transformers"


@dataclass(frozen=True)
class Check:
    """One thing that was compared.

    ``excess`` is how many times beyond its limit the release lies: above 1 it is damaged.
    ``reason`` says what was found in plain words, whatever the status. ``figures`` are JSON values.
    """

    depth: str
    name: str
    status: str
    reason: str
    excess: float = 0.0
    figures: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "depth": self.depth,
            "check": self.name,
            "status": self.status,
            "reason": self.reason,
            "figures": {name: _finite(value) for name, value in self.figures.items()},
        }


def _finite(value: Any) -> Any:
    """Return a figure with None for what is no number: JSON has none for infinity and NaN."""
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def within(depth: str, name: str, reason: str, excess: float, **figures: Any) -> Check:
    """Return a check that is kept while ``excess`` is at most 1; NaN is damage."""
    return Check(depth, name, KEPT if excess <= 1 else DAMAGED, reason, excess, figures)


def graded(depth: str, name: str, reason: str, excess: float, *, worse: bool, **figures: Any) -> Check:
    """Return a check that is damaged beyond its limit, and degraded within it where it is ``worse``."""
    check = within(depth, name, reason, excess, **figures)
    return replace(check, status=DEGRADED) if check.status == KEPT and worse else check


def broken(depth: str, name: str, reason: str, **figures: Any) -> Check:
    """Return a check that found a fault which no limit measures."""
    return Check(depth, name, DAMAGED, reason, WORST, figures)


def cannot_judge(depth: str, name: str, reason: str) -> Check:
    """Return the note that something should have been looked at and could not be, and what it needs."""
    return Check(depth, name, CANNOT_JUDGE, reason)


def not_comparable(depth: str, name: str, reason: str) -> Check:
    """Return the note that there is nothing to compare, and why."""
    return Check(depth, name, NOT_COMPARABLE, reason)


@dataclass(frozen=True, repr=False)
class Comparison:
    """All checks of one release against its base, in the order in which they were made.

    ``required`` are the depths that must have been reached for the release to count as kept. ``engines``
    names what ran base and release for predictions and text.
    """

    base: str
    release: str
    checks: tuple[Check, ...]
    required: tuple[str, ...] = ()
    engines: tuple[str, str] = (_ENGINE, _ENGINE)

    def __post_init__(self) -> None:
        if not self.checks:
            raise HarnessError(f"{self.release} was compared with {self.base} in no respect")

    @property
    def unreached(self) -> tuple[str, ...]:
        """The required depths at which nothing was judged, or something could not be looked at."""
        return tuple(depth for depth in self.required if not self._reached(depth))

    def _reached(self, depth: str) -> bool:
        statuses = {check.status for check in self.checks if check.depth == depth}
        return CANNOT_JUDGE not in statuses and bool(statuses & {KEPT, DEGRADED, CHANGED, DAMAGED})

    @property
    def verdict(self) -> str:
        """`DAMAGED` when damage was seen, else `CANNOT_JUDGE` when a required depth was not reached.

        The same where the files alone show a change: only a forward pass tells whether it matters.

        A comparison in which nothing was judged is no pass.
        """
        statuses = {check.status for check in self.checks}
        if DAMAGED in statuses:
            return DAMAGED
        judged = {check.depth for check in self.checks if check.status in (KEPT, DEGRADED, CHANGED)}
        undecided = CHANGED in statuses and judged == {STATIC}
        return CANNOT_JUDGE if self.unreached or undecided or not judged else KEPT

    @property
    def degraded(self) -> bool:
        """Whether the release is kept, and measurably worse than its base."""
        return self.verdict == KEPT and any(check.status == DEGRADED for check in self.checks)

    @property
    def headline(self) -> str:
        """The verdict in words: degraded, or which depths were not reached, where that is so."""
        if self.degraded:
            return f"{KEPT}, {DEGRADED}"
        if self.verdict == CANNOT_JUDGE and self.unreached:
            return f"{CANNOT_JUDGE}: {' and '.join(self.unreached)} not reached"
        if self.verdict == CANNOT_JUDGE and any(check.status == CHANGED for check in self.checks):
            return f"{CANNOT_JUDGE}: changed, and only a forward pass tells whether that matters"
        return self.verdict

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why: damage, the worst first; what could not be looked at; what is worse; what was left out."""
        damaged = [check for check in self.checks if check.status == DAMAGED]
        # Sorting is stable: of equals, the depth that was looked at first speaks first.
        damaged.sort(key=lambda check: -(WORST if math.isnan(check.excess) else check.excess))
        order = (CANNOT_JUDGE, DEGRADED, CHANGED, NOT_COMPARABLE)
        others = [check for status in order for check in self.checks if check.status == status]
        # What leaves several depths open is said once.
        return tuple(dict.fromkeys(check.reason for check in (*damaged, *others)))

    def as_dict(self) -> dict[str, Any]:
        """Return the contract of ``superweight compare --json``."""
        return {
            "base": self.base,
            "release": self.release,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "checks": [check.as_dict() for check in self.checks],
        } | ({"engines": dict(zip(("base", "release"), self.engines, strict=True))} if self.others else {})

    @property
    def others(self) -> bool:
        """Whether another engine than the models' own pass told what one of them predicts and writes."""
        return self.engines != Comparison.engines

    def __repr__(self) -> str:
        return as_text(self).rstrip("\n")

    def _repr_html_(self) -> str:
        rows = [(check.depth, check.name, check.status, check.reason) for check in self.checks]
        caption = f"{self.release} against {self.base}: {self.verdict}"
        return html_table(caption, ("depth", "check", "status", "found"), rows)


def as_text(comparison: Comparison) -> str:
    """Return the comparison for a terminal: every check, then the verdict and its reasons."""
    lines = [f"  {check.status:<16}  {check.depth:<11}  {check.reason}" for check in comparison.checks]
    lines += [f"  {_engines(comparison)}"] if comparison.others else []
    lines.append(f"{comparison.release} against {comparison.base}: {comparison.headline}")
    lines += [f"  {reason}" for reason in comparison.reasons]
    return "\n".join(lines) + "\n"


def as_markdown(comparison: Comparison) -> str:
    """Return the comparison for a job summary or a model card."""
    lines = [
        f"### Super weights: {comparison.headline}",
        "",
        f"`{cell(comparison.release)}` against `{cell(comparison.base)}`",
        "",
        *([_engines(comparison), ""] if comparison.others else []),
        *(f"- {cell(reason)}" for reason in comparison.reasons),
        *([""] if comparison.reasons else []),
        *table(
            ("depth", "check", "status", "found"),
            [(each.depth, cell(each.name), each.status, cell(each.reason)) for each in comparison.checks],
        ),
    ]
    return "\n".join(lines) + "\n"


def _engines(comparison: Comparison) -> str:
    base, release = comparison.engines
    return f"predictions and text: the base's in {base}, the release's in {release}"


def joined(words: Sequence[object], most: int = 3) -> str:
    """Return the first few of a list in words, and how many more there are."""
    shown = ", ".join(map(str, words[:most]))
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"
