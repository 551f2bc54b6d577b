"""What a person sees while a command works: a bar with an estimate on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import click

# Seconds that each stage took of SmolLM2-135M on one busy core (`superweight check`, its report's
# table of stages). Only their proportions matter: what is done so far says how fast this machine is.
CHECK: Mapping[str, float] = {
    "loading": 2,
    "C1": 0.5,
    "C2": 2,
    "C3": 200,
    "C5": 1,
    "C7": 1,
    "C11": 14,
    "gathering": 5,
}
COMPARE: Mapping[str, float] = {"loading": 2, "comparing": 30, "gathering": 5}
SWEEP: Mapping[str, float] = {"INT4": 10, "W8A8": 5}
SCAN: Mapping[str, float] = {"loading": 2, "scanning": 1}
# Of a stage that is not named above.
_SHORT = 0.1


@contextmanager
def progressing(stages: Mapping[str, float]) -> Iterator[Callable[[str], None]]:
    """Yield a function to call with each step as it begins; all that is shown goes to stderr.

    ``stages`` gives the relative length of steps by their first word.
    """
    if not sys.stderr.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        yield lambda step: click.echo(f"  {step}", err=True)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (SpinnerColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=sum(stages.values()))
        running = 0.0

        def begin(step: str) -> None:
            nonlocal running
            shown.update(task, advance=running, description=escape(step))
            running = stages.get(step.split(":")[0].split()[0], _SHORT)

        yield begin
