"""Define how much a release may differ from its base before it counts as damaged."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from superweight.core.errors import BadInput


@dataclass(frozen=True)
class Limits:
    """The limits of a comparison; docs/compare.md gives the measured reason for each default.

    ``value_error``: largest relative error of a super weight. ``magnitude_ratio``: largest factor,
    either way, between the super activations. ``head_room``: largest share of what the release's
    dtype can hold. ``perplexity_ratio``: release over base, by the low end of its interval.
    ``degraded_ratio``: the same, from where on a release is worse without being damaged.
    ``divergence``: mean KL(base || release) per token, in nats. ``same_top``: least share of
    positions with the same likeliest token. ``loop_rate``: how much more often greedy text may loop.
    ``damage_share``: least share of the base's damage, in log-perplexity, that pruning still does.
    ``reply_ratio``: the perplexity ratio on the base's own chat replies, ``degraded_reply_ratio`` from
    where on they are told to be worse. ``end_rise``: by how many nats the end of a reply may be less
    likely.
    """

    value_error: float = 0.25
    magnitude_ratio: float = 1.5
    head_room: float = 0.75
    perplexity_ratio: float = 1.5
    degraded_ratio: float = 1.1
    divergence: float = 1.0
    same_top: float = 0.5
    loop_rate: float = 0.5
    damage_share: float = 0.5
    reply_ratio: float = 2.0
    degraded_reply_ratio: float = 1.2
    end_rise: float = 3.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            # A NaN or infinite limit would pass everything.
            if not math.isfinite(value) or value <= 0:
                raise BadInput(f"limit {item.name} = {value} is not a finite number above 0")


TABLE = "tool.superweight.compare"


def read_limits(path: Path | None) -> Limits:
    """Read limits from a TOML file, by default pyproject.toml of the working directory.

    They stand in the table ``[tool.superweight.compare]``, or in a file of their own at the top.
    Raises `BadInput` naming the file and what is wrong; an absent pyproject.toml means the defaults.
    """
    chosen = Path("pyproject.toml") if path is None else path
    if path is None and not chosen.is_file():
        return Limits()
    try:
        document = tomllib.loads(chosen.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"cannot read limits from {chosen}: {error}") from error
    table: Any = document
    for key in TABLE.split("."):
        table = table.get(key, {}) if isinstance(table, dict) else {}
    if chosen.name != "pyproject.toml" and "tool" not in document:
        table = document
    try:
        return _limits(table)
    except BadInput as error:
        raise BadInput(f"{chosen}: {error}") from None


def _limits(table: Any) -> Limits:
    known = {item.name for item in fields(Limits)}
    if not isinstance(table, dict):
        raise BadInput(f"[{TABLE}] is no table")
    if unknown := sorted(set(table) - known):
        raise BadInput(f"unknown limit {unknown[0]!r}; known are {', '.join(sorted(known))}")
    try:
        return msgspec.convert(table, Limits)
    except msgspec.ValidationError as error:
        raise BadInput(f"a limit is wrong: {error}".replace("`$.", "`")) from error
