"""Evidence by hand: what a claim is judged on, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from superweight.core.coordinates import Coordinate
from superweight.measurement.sequential import Look


def evidence(
    *looks: Look, found: Sequence[Coordinate] = (), scan: Any = None, **rest: Any
) -> SimpleNamespace:
    """Return evidence with the given looks, in order, of a model in which ``found`` was found.

    ``scan`` takes the place of a scan with these coordinates alone; ``rest`` is anything else that a
    claim asks for by name.
    """
    sequential = SimpleNamespace(at=lambda names: iter(looks), first=lambda: looks[0])
    scanned = SimpleNamespace(coordinates=tuple(found)) if scan is None else scan
    return SimpleNamespace(scan=scanned, sequential=sequential, sequential_of_stream=sequential, **rest)
