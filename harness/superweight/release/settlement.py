"""Settle what a shallow check found by a deeper one: a kept function decides, coordinates do not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from superweight.release.config_checks import CONFIG
from superweight.release.result import CHANGED, DAMAGED, DEGRADED, KEPT, QUALITY, STATIC, Check

# Said of coordinates: a neuron or channel that has another number now fails all of these.
_OF_COORDINATES = ("super activation on channel", "new super activations", "makers")
EMPTIED = "rows and columns"
_CARRIED = "what the super weights carry"
# Its module needs torch, and the files alone do not.
FUNCTION = "function of the super weights"
# A ratio of perplexities: one per cent is what windows of text resolve.
RESOLVED = 1.01


def settled(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Return the checks, with damage that a deeper look takes back turned into `CHANGED`, or `DEGRADED`.

    A super weight's value decides nothing by the files alone, unless it was pruned or changed its
    sign and its row is otherwise the base's; nor where the jump and the predictions are the base's, or
    the jump alone where predictions were not looked at. A setting of the config decides nothing where
    predictions are sound; one that bears on positions, where those on long windows are, and where it does
    not first act beyond them. Of files alone positions that are turned otherwise are a change: that is how
    a model is tuned for longer text.
    """
    given = tuple(checks)
    return tuple(_settled(check, given) for check in given)


def _settled(check: Check, given: tuple[Check, ...]) -> Check:
    if check.status != DAMAGED or not _taken_back(check, given):
        return check
    # Rows that were emptied are no release's way to anything: what the text pays for them is told.
    worse = check.name == EMPTIED and any(_dearer(item) for item in given if item.depth == QUALITY)
    return replace(check, status=DEGRADED if worse else CHANGED, excess=0.0)


def _dearer(check: Check) -> bool:
    """Tell whether text of some kind is measurably more perplexing than to the base."""
    low, _ = check.figures.get("interval", (0.0, 0.0))
    return bool("perplexity" in check.name and low > RESOLVED)


def _taken_back(check: Check, given: tuple[Check, ...]) -> bool:
    function = [item.status == KEPT for item in given if item.name.startswith(FUNCTION)]
    predictions = [item.status for item in given if item.depth == QUALITY and "perplexity" in item.name]
    sound = bool(predictions) and DAMAGED not in predictions
    # Without predictions a scalar that changed its sign in place would pass for a symmetry.
    moved = any(
        item.figures.get("base_at") != item.figures.get("release_at") or item.figures.get("mirrored")
        for item in given
        if item.name.startswith(FUNCTION)
    )
    kept = bool(function) and all(function) and (sound or (moved and not predictions))
    if check.depth == STATIC and check.name.startswith("super weight "):
        alone = {item.depth for item in given} == {STATIC}
        if alone:
            return 1 < check.excess < float("inf") or check.figures.get("row_alike") is False
        # Another value of the same sign that writes what the base's did is a neuron scaled, as AWQ's are.
        scaled = bool(function) and all(function) and not predictions and check.excess < float("inf")
        return kept or scaled or (sound and not function)
    if check.depth == STATIC and check.name == CONFIG:
        if {item.depth for item in given} == {STATIC}:
            return bool(check.figures.get("rope_alone"))
        positions, unseen = check.figures.get("positions"), check.figures.get("unseen")
        read = any("tokens" in item.name for item in given if item.depth == QUALITY)
        return sound and not unseen and (read or not positions)
    if check.name == EMPTIED:
        # Every token passes through a projection: whether a row of it mattered, any text shows.
        return sound and check.figures.get("of_tokens") is False
    if check.name == _CARRIED:
        return kept or (sound and not function)
    return kept and check.name.startswith(_OF_COORDINATES)
