"""Timings as ratios: both sides in one process, in turn, so that a busy machine slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, the figure, and the aim where there is one."""

    group: str
    what: str
    figure: str
    aim: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        return {True: "met", False: "not met", None: ""}[self.met]


def aimed(
    group: str,
    what: str,
    value: float,
    *,
    most: float | None = None,
    least: float | None = None,
    figure: str = "",
) -> Row:
    """Return a line with an aim; ``figure`` says more than the value that is held to it."""
    aim = f"at most {most:g}" if most is not None else f"at least {least:g}"
    met = value <= most if most is not None else least is not None and value >= least
    return Row(group, what, figure or f"{value:.3g}", aim, met)


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of some repeats, in seconds or as a ratio."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.least:.3g} to {self.greatest:.3g})"


def spread(values: list[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def finished() -> float:
    """Return the time once the accelerator has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def in_turn(
    sides: Mapping[str, Callable[[], Any]], repeats: int, *, warm: bool = True
) -> dict[str, list[float]]:
    """Return the seconds of every repeat of every side, run one after the other in each round."""
    if warm:
        for run in sides.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            begin = finished()
            run()
            seconds[name].append(finished() - begin)
    return seconds


def ratios(seconds: Mapping[str, list[float]], name: str, over: str) -> Spread:
    """Return one side's time over another's, round by round."""
    return spread([one / other for one, other in zip(seconds[name], seconds[over], strict=True)])
