"""Show progress: a bar with an estimate on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress

# Seconds that each stage takes of SmolLM2-135M on one busy core (the report's table of stages). The
# first estimate rests on them; from then on, what is done so far says how fast this machine is.
CHECK: Mapping[str, float] = {
    "loading": 2,
    "C1": 1,
    "C2": 2,
    "C3": 35,
    "C5": 1,
    "C7": 1,
    "C10": 15,
    "C11": 14,
    "C12": 30,
    "C13": 40,
    "gathering": 5,
}
# What only the first run with a model does; a conversion of the same model takes 14 s.
ONCE: Mapping[str, float] = {"downloading": 20, "converting": 14}
COMPARE: Mapping[str, float] = {"loading": 4, "comparing": 30, "gathering": 5}
SCAN: Mapping[str, float] = {"loading": 2, "scanning": 2, "measuring": 12}
SWEEP: Mapping[str, float] = {"loading": 2, "scanning": 1, "intact": 5, "INT4": 400, "W8A8": 60}


class Estimate:
    """How much of some stages is left, by what they usually take and by how fast it has gone so far.

    ``usual`` gives seconds by a step's first word; steps in a row that share it are one stage.
    """

    def __init__(self, usual: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._ahead = dict(usual)
        self._clock = clock
        self._start = self._begun = clock()
        self._stage, self._expected, self._done = "", 0.0, 0.0

    def begin(self, step: str) -> None:
        """Note that a step begins, which ends the one before it."""
        stage = step.split()[0].rstrip(":,")
        if stage != self._stage:
            self._done += self._expected
            self._stage, self._expected = stage, self._ahead.pop(stage, ONCE.get(stage, 0.0))
            self._begun = self._clock()

    @property
    def left(self) -> float:
        """Seconds until the last stage ends, not below zero."""
        # A first stage of moments says nothing about the rest.
        pace = (self._begun - self._start) / self._done if self._done > 1 else 1.0
        here = pace * self._expected - (self._clock() - self._begun)
        return max(0.0, here) + pace * sum(self._ahead.values())

    @property
    def share(self) -> float:
        """The share of the whole time that is over, 0 to 1."""
        gone = self._clock() - self._start
        return gone / (gone + self.left) if gone else 0.0


def shows_bar() -> bool:
    """Tell whether stderr is a terminal on which a bar can be drawn."""
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


@contextmanager
def progressing(usual: Mapping[str, float]) -> Iterator[Callable[[str], None]]:
    """Yield a function to call with each step as it begins; all that is shown goes to stderr.

    ``usual`` is as in `Estimate`.
    """
    if not shows_bar():
        yield lambda step: click.echo(f"  {step}", err=True)
        return
    from rich.markup import escape

    estimate = Estimate(usual)
    with _bar(estimate) as shown:
        task = shown.add_task("")

        def begin(step: str) -> None:
            estimate.begin(step)
            shown.update(task, description=escape(step))

        yield begin


def _bar(estimate: Estimate) -> Progress:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    class Bar(ProgressColumn):
        def render(self, task: Task) -> ProgressBar:
            return ProgressBar(total=1.0, completed=estimate.share, width=24)

    class Left(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"about {timedelta(seconds=round(estimate.left))} left", style="progress.remaining")

    columns = (SpinnerColumn(), Bar(), Left(), TextColumn("{task.description}"))
    return Progress(*columns, console=Console(stderr=True), transient=True)
