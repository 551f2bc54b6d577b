"""What a comparison of two models consists of, and how it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from superweight.core.errors import HarnessError

KEPT, DAMAGED, NOT_COMPARABLE = "kept", "damaged", "not comparable"
# Neither is damage: measurably worse than the base, and other than the base but no worse.
DEGRADED, CHANGED = "degraded", "changed"

STATIC, ACTIVATIONS, QUALITY = "static", "activations", "quality"
DEPTHS = (STATIC, ACTIVATIONS, QUALITY)

# Of a fault that no limit measures: a tensor that is missing is worse than any number.
WORST = math.inf


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
            "figures": dict(self.figures),
        }


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


def not_comparable(depth: str, name: str, reason: str) -> Check:
    """Return the note that something could not be compared, and why."""
    return Check(depth, name, NOT_COMPARABLE, reason)


@dataclass(frozen=True)
class Comparison:
    """All checks of one release against its base, in the order in which they were made."""

    base: str
    release: str
    checks: tuple[Check, ...]

    def __post_init__(self) -> None:
        if not self.checks:
            raise HarnessError(f"{self.release} was compared with {self.base} in no respect")

    @property
    def verdict(self) -> str:
        """`KEPT` when nothing is damaged and something was compared; a comparison of nothing is no pass."""
        statuses = {check.status for check in self.checks}
        return KEPT if KEPT in statuses and DAMAGED not in statuses else DAMAGED

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the release is damaged, the worst first; then what could not be compared."""
        damaged = [check for check in self.checks if check.status == DAMAGED]
        # Sorting is stable: of equals, the depth that was looked at first speaks first.
        damaged.sort(key=lambda check: -(WORST if math.isnan(check.excess) else check.excess))
        unknown = [check for check in self.checks if check.status == NOT_COMPARABLE]
        return tuple(check.reason for check in (*damaged, *unknown))

    def as_dict(self) -> dict[str, Any]:
        """Return the contract of ``superweight compare --json``."""
        return {
            "base": self.base,
            "release": self.release,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "checks": [check.as_dict() for check in self.checks],
        }


def as_text(comparison: Comparison) -> str:
    """Return the comparison for a terminal: every check, then the verdict and its reasons."""
    lines = [f"  {check.status:<14}  {check.depth:<11}  {check.reason}" for check in comparison.checks]
    lines.append(f"{comparison.release} against {comparison.base}: {comparison.verdict}")
    lines += [f"  {reason}" for reason in comparison.reasons]
    return "\n".join(lines) + "\n"


def as_markdown(comparison: Comparison) -> str:
    """Return the comparison for a job summary or a model card."""
    lines = [
        f"### Super weights: {comparison.verdict}",
        "",
        f"`{_cell(comparison.release)}` against `{_cell(comparison.base)}`",
        "",
        *(f"- {_cell(reason)}" for reason in comparison.reasons),
        *([""] if comparison.reasons else []),
        "| depth | check | status | found |",
        "|---|---|---|---|",
        *(
            f"| {check.depth} | {_cell(check.name)} | {check.status} | {_cell(check.reason)} |"
            for check in comparison.checks
        ),
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Keep a text from ending its cell or starting markup."""
    return text.replace("|", r"\|").replace("<", "&lt;").replace("`", "'").replace("\n", " ")


def joined(words: Sequence[object], most: int = 3) -> str:
    """Return the first few of a list in words, and how many more there are."""
    shown = ", ".join(map(str, words[:most]))
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"
