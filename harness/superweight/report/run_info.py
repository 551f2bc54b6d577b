"""Record how a run came about: the command that reproduces it, versions, and where its time went."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from superweight.core.statistics import SEED
from superweight.report.privacy import command_line

# Those that results depend on beside what every model's provenance names, and what drew the page.
_PACKAGES = ("numpy", "tokenizers", "matplotlib")


class Stages:
    """The wall time between one stage's begin and the next one's.

    Stands where a progress function is asked for, and passes every step on to the one it is given.
    """

    def __init__(self, progress: Callable[[str], None] = lambda step: None) -> None:
        self._progress = progress
        self._begun: list[tuple[str, float]] = []

    def __call__(self, step: str) -> None:
        self._begun.append((step, time.perf_counter()))
        self._progress(step)

    def seconds(self) -> list[dict[str, Any]]:
        """Return each stage and its seconds so far, in order."""
        ends = [begun for _, begun in self._begun[1:]] + [time.perf_counter()]
        return [
            {"stage": stage, "seconds": round(end - begun, 3)}
            for (stage, begun), end in zip(self._begun, ends, strict=True)
        ]


def run_of(
    command: Sequence[str], corpus: str, stages: Sequence[dict[str, Any]], notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the ``run`` part of a report: no environment variable, user name or home directory in it.

    ``notes`` say what went other than planned and was gone on with.
    """
    versions = {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
    return {
        "command": command_line(command),
        "corpus": corpus,
        "seed": SEED,
        "versions": versions,
        "stages": list(stages),
        "notes": list(notes),
    }
