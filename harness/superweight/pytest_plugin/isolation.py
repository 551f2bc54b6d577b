"""Find what a test left on a model: hooks, edits, changed numbers."""

from __future__ import annotations

from dataclasses import dataclass

from superweight.detection.scan import Scan
from superweight.model.edits import active_edits
from superweight.model.subject import Subject


@dataclass(frozen=True)
class Attached:
    """How many hooks and replaced ``forward`` methods a model's modules carry."""

    hooks: int
    forwards: int


def attached(subject: Subject) -> Attached:
    """Count what hangs on a model; a model may come with some, so only a change says anything."""
    modules = list(subject.model.modules())
    return Attached(
        hooks=sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules),
        forwards=sum("forward" in vars(module) for module in modules),
    )


def leftover(subject: Subject, before: Attached, found: Scan | None) -> str | None:
    """Return what was left since ``before``, in words, or None.

    ``found`` is what a scan of the intact subject found: its super weights must still have their
    values, to the last bit.
    """
    if edits := active_edits(subject):
        return f"the edit {edits[-1]} is still in force on {subject.name}"
    after = attached(subject)
    if after != before:
        return f"{subject.name} carries other hooks than before: {after} instead of {before}"
    for weight in found.super_weights if found is not None else ():
        projection = subject.architecture.projection(weight.coordinate)
        # What does not show its weight is edited by hooks only, which were counted.
        if projection.writable:
            value = float(projection.weight()[weight.coordinate.row, weight.coordinate.col])
            if value != weight.value:
                return (
                    f"super weight {weight.coordinate} of {subject.name} is {value:g}, not {weight.value:g}"
                )
    return None
