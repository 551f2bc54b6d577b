"""Define what an index says of one model, and how two rows of the same model differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from superweight.report.privacy import without_home

AS_EXPECTED = "as expected"
NOT_AS_EXPECTED = "not as expected"
CANNOT_JUDGE = "cannot be judged"
CRASHED = "crashed"
TIMED_OUT = "timed out"
# In the order in which a person wants to see them.
STATUSES = (NOT_AS_EXPECTED, CRASHED, TIMED_OUT, CANNOT_JUDGE, AS_EXPECTED)
# A result about the weights: with the same weights, options and version it would be the same again.
JUDGED = (AS_EXPECTED, NOT_AS_EXPECTED)


@dataclass(frozen=True)
class Place:
    """One super weight: its coordinate as text, and its value."""

    at: str
    value: float


@dataclass(frozen=True)
class Activation:
    """The strongest super activation: its channel and token, and from which block to which it stands.

    ``magnitude`` is its largest absolute value.
    """

    channel: int
    token: int
    onset: int
    last: int
    magnitude: float | None = None


@dataclass(frozen=True)
class Carried:
    """Perplexity without the super weights over perplexity with them, and what that says in words."""

    ratio: float
    low: float
    high: float
    words: str | None = None


@dataclass(frozen=True)
class Row:
    """What an index says of one model.

    ``key`` is the digest of weights, options and version; it is None where the model was not judged.
    ``weights`` says which weights they were: "commit:..." of the hub, or "sha256:...". ``expected_by`` is
    who expected the verdicts; None for a model that is met for the first time. ``report`` and ``log``
    are paths beside the index. ``changed`` is what differs from the last run.
    """

    id: str
    model: str
    mode: str
    status: str
    reason: str
    base: str | None = None
    verdict: str | None = None
    expected_by: str | None = None
    key: str | None = None
    weights: str | None = None
    version: str = ""
    finished: str = ""
    seconds: float = 0.0
    report: str | None = None
    log: str | None = None
    source: str | None = None
    revision: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    dtype: str | None = None
    blocks: int | None = None
    super_weights: tuple[Place, ...] = ()
    neurons: int = 0
    activation: Activation | None = None
    carried: Carried | None = None
    corpus: str | None = None
    claims: Mapping[str, str] = field(default_factory=dict)
    unexpected: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether the row says something of the weights, and not of where they were run."""
        return self.status in JUDGED


def private(row: Row) -> Row:
    """Return a row with the home directory written ``~`` in every text, as everything that is kept has it."""
    return msgspec.convert(without_home(msgspec.to_builtins(row)), Row)


def encoded(row: Row) -> bytes:
    """Return a row as JSON."""
    return msgspec.json.encode(row)


def decoded(data: bytes) -> Row:
    """Return the row that `encoded` wrote. Raises `msgspec.ValidationError` for anything else."""
    return msgspec.json.decode(data, type=Row)


def now() -> str:
    """Return the time in UTC, to the second, as the rows have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def differences(old: Row, new: Row) -> tuple[str, ...]:
    """Return what the verdict on a model differs in from an older one, a line each.

    A row that could not be judged says nothing of super weights: only its status is compared.
    """
    found = []
    if old.status != new.status:
        found.append(f"{old.status} → {new.status}")
    if not (old.judged and new.judged):
        return tuple(found)
    if old.verdict != new.verdict and new.mode == "compare":
        found.append(f"verdict: {old.verdict} → {new.verdict}")
    for claim in sorted(old.claims.keys() | new.claims.keys(), key=lambda name: (len(name), name)):
        was, is_now = old.claims.get(claim, "not judged"), new.claims.get(claim, "not judged")
        if was != is_now:
            found.append(f"{claim}: {was} → {is_now}")
    was_at, now_at = ({place.at for place in row.super_weights} for row in (old, new))
    found += [f"{at} is no longer found" for at in sorted(was_at - now_at)]
    found += [f"{at} is found anew" for at in sorted(now_at - was_at)]
    carried, carries = _words(old), _words(new)
    if carried != carries and None not in (carried, carries):
        found.append(f"{carried} → {carries}")
    return tuple(found)


def _words(row: Row) -> str | None:
    """Return what the super weights carry, without the number, which differs from machine to machine."""
    return row.carried.words.partition(" (")[0] if row.carried and row.carried.words else None


def order(row: Row) -> tuple[Any, ...]:
    """Return what rows are sorted by: what changed first, then by status, then by name."""
    return (not row.changed, STATUSES.index(row.status), row.model)
