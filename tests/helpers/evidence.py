"""Evidence by hand: what a claim is judged on, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from superweight.core.coordinates import Coordinate
from superweight.measurement.sequential import Look


def evidence(
    *looks: Look, found: Sequence[Coordinate] = (), scan: Any = None, intact: Any = None, **rest: Any
) -> SimpleNamespace:
    """Return evidence with the given looks, in order, of a model in which ``found`` was found.

    ``intact`` gives the losses of the intact model on a number of windows.
    ``scan`` takes the place of a scan with these coordinates alone; ``rest`` is anything else that a
    claim asks for by name.
    """
    sequential = SimpleNamespace(
        follow=lambda needs: iter(looks),
        first=lambda: looks[0],
        intact=intact,
        windows=looks[-1].windows if looks else 0,
    )
    scanned = SimpleNamespace(coordinates=tuple(found)) if scan is None else scan
    unlimited = {"budget": None, "affords": lambda token_blocks: True}
    return SimpleNamespace(
        scan=scanned, sequential=sequential, sequential_of_stream=sequential, **unlimited, **rest
    )
