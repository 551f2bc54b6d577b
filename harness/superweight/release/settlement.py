"""Settle what a shallow check found by a deeper one: a kept function decides, coordinates do not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from superweight.release.config_checks import CONFIG
from superweight.release.result import CHANGED, DAMAGED, KEPT, QUALITY, STATIC, Check

# Said of coordinates: a neuron or channel that has another number now fails all of these.
_OF_COORDINATES = ("super activation on channel", "new super activations", "makers")
_CARRIED = "what the super weights carry"
# Its module needs torch, and the files alone do not.
FUNCTION = "function of the super weights"


def settled(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Return the checks, with damage that a deeper look takes back turned into `CHANGED`.

    A super weight's value decides nothing by the files alone, nor where the jump and the
    predictions are the base's. A setting of the config decides nothing where predictions, those
    on long windows included, are the base's, unless it bears on positions: longer text than was
    read would show it.
    """
    given = tuple(checks)
    return tuple(_settled(check, given) for check in given)


def _settled(check: Check, given: tuple[Check, ...]) -> Check:
    if check.status != DAMAGED or not _taken_back(check, given):
        return check
    return replace(check, status=CHANGED, excess=0.0)


def _taken_back(check: Check, given: tuple[Check, ...]) -> bool:
    function = [item.status == KEPT for item in given if item.name == FUNCTION]
    predictions = [item.status for item in given if item.depth == QUALITY and "perplexity" in item.name]
    sound = bool(predictions) and DAMAGED not in predictions
    # Without predictions a scalar that changed its sign in place would pass for a symmetry.
    moved = any(
        item.name == FUNCTION and item.figures["base_at"] != item.figures["release_at"] for item in given
    )
    kept = bool(function) and all(function) and (sound or (moved and not predictions))
    if check.depth == STATIC and check.name.startswith("super weight "):
        alone = {item.depth for item in given} == {STATIC}
        return 1 < check.excess < float("inf") if alone else kept or (sound and not function)
    if check.depth == STATIC and check.name == CONFIG:
        return set(predictions) == {KEPT} and not check.figures.get("positions")
    return kept and check.name.startswith((*_OF_COORDINATES, _CARRIED))
