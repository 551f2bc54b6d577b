"""From a live model to its super weights: trace, detect, prune, look again.

The paper repeats this "until the magnitudes of large maximum activations are greatly suppressed"
(section 3.1); here the criterion has a number and every ending has a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from superweight.core.coordinates import Coordinate
from superweight.core.errors import HarnessError
from superweight.detection.detect import CARRIED, Canceller, Detection, SuperActivation, SuperWeight, detect
from superweight.detection.run_trace import trace, trace_again
from superweight.detection.speculative import SpeculativeTrace, speculative_pruning
from superweight.detection.trace import Trace
from superweight.model.edits import Prune, active_edits, edited
from superweight.model.prefix_cache import Prefix, keeping_prefixes
from superweight.model.subject import Subject

MAX_PASSES = 6

SUPPRESSED = "suppressed"
NONE_FOUND = "none found"
NO_SCALAR = "no scalar makes the activation"
NOT_REDUCIBLE = "not reducible"
PASS_LIMIT = "pass limit"  # noqa: S105  # a forward pass, no password


@dataclass(frozen=True)
class Scan:
    """What a model's super weights are, how many forward passes it took, and why it ended.

    ``ranks`` gives each super weight's place by magnitude in its matrix, 1 for the largest.
    ``largest`` is the largest magnitude that the intact pass met anywhere.
    """

    super_activations: tuple[SuperActivation, ...]
    super_weights: tuple[SuperWeight, ...]
    cancellers: tuple[Canceller, ...]
    passes: int
    stop_reason: str
    ranks: Mapping[Coordinate, int | None]
    largest: float

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        return tuple(weight.coordinate for weight in self.super_weights)

    @property
    def strongest(self) -> SuperActivation | None:
        """The largest super activation, or None."""
        return self.super_activations[0] if self.super_activations else None


def scan(subject: Subject, text: str) -> Scan:
    """Find the super weights of a subject with one forward pass over ``text``, and confirm them.

    The set that was found is pruned and the same activations are looked at again: in the same pass
    where it could be foreseen, or from the first block that it changes on in another; what still
    makes them joins the set, up to `MAX_PASSES` passes in all.
    The subject is left as it was. Raises `HarnessError` on a subject under edits: its detection
    would name the runner-up.
    """
    if active_edits(subject):
        raise HarnessError(f"{subject.name} is being edited; scan it before or after, not meanwhile")
    # Every block's output is kept: which block the edits will begin in is not known yet.
    with keeping_prefixes(subject, range(len(subject.architecture.blocks))) as prefixes:
        intact, foreseen = _first_pass(subject, text)
    first, largest = detect(intact), intact.largest
    if not first.super_weights:
        reason = NO_SCALAR if first.super_activations else NONE_FOUND
        return _scan(subject, first, first.super_weights, passes=1, reason=reason, largest=largest)
    found = {weight.coordinate: weight for weight in first.super_weights}
    reason, passes = PASS_LIMIT, 1
    if (
        foreseen is not None
        and foreseen.pruned == found.keys()
        and suppressed(first, foreseen.traced(intact))
    ):
        return _scan(subject, first, first.super_weights, passes=1, reason=SUPPRESSED, largest=largest)
    while passes < MAX_PASSES:
        with edited(subject, [Prune(coordinate) for coordinate in found]):
            prefix = prefixes[min(found).layer].of_first_sequence()
            again = _traced_again(subject, text, intact, prefix)
        passes += 1
        if suppressed(first, again):
            reason = SUPPRESSED
            break
        sites = {(activation.token, activation.channel) for activation in first.super_activations}
        more = [
            weight
            for weight in detect(again).super_weights
            if (weight.token, weight.coordinate.row) in sites and weight.coordinate not in found
        ]
        if not more:
            reason = NOT_REDUCIBLE
            break
        found |= {weight.coordinate: weight for weight in more}
    weights = tuple(found[coordinate] for coordinate in sorted(found))
    return _scan(subject, first, weights, passes=passes, reason=reason, largest=largest)


def _first_pass(subject: Subject, text: str) -> tuple[Trace, SpeculativeTrace | None]:
    """Trace the intact model, with a pruned copy beside it where its blocks compute on two rows."""
    try:
        with speculative_pruning(subject) as foresight:
            intact = trace(subject, text, foresight.look)
    except HarnessError:
        if foresight.copy is None:
            raise
    except Exception:  # what a block does with rows that it did not expect is its own affair
        if foresight.copy is None:
            raise
    else:
        foreseen = foresight.foreseen
        fits = foreseen is not None and all(
            len(part) == intact.residual.shape[1] for part in foreseen.residual
        )
        return intact, foreseen if fits else None
    return trace(subject, text), None


def _traced_again(subject: Subject, text: str, intact: Trace, prefix: Prefix) -> Trace:
    """Trace the edited model from the first edited block on, or wholly where it cannot begin there."""
    try:
        return trace_again(subject, text, intact, prefix)
    except HarnessError:
        raise
    except Exception:  # reversible blocks return more than a stream, and check it
        return trace(subject, text)


def suppressed(intact: Detection, pruned: Trace) -> bool:
    """Tell whether every super activation has lost its plateau: no block of it still carries half."""
    return all(
        bool(
            (
                abs(pruned.residual[item.onset + 1 : item.last + 2, item.token, item.channel])
                < CARRIED * abs(item.magnitude)
            ).all()
        )
        for item in intact.super_activations
    )


def _scan(
    subject: Subject,
    first: Detection,
    weights: tuple[SuperWeight, ...],
    *,
    passes: int,
    reason: str,
    largest: float,
) -> Scan:
    return Scan(
        super_activations=first.super_activations,
        super_weights=weights,
        cancellers=first.cancellers,
        passes=passes,
        stop_reason=reason,
        ranks={weight.coordinate: _rank(subject, weight) for weight in weights},
        largest=largest,
    )


def _rank(subject: Subject, weight: SuperWeight) -> int | None:
    projection = subject.architecture.projection(weight.coordinate)
    if not projection.writable:
        return None  # ranking a packed matrix would mean unpacking all of it
    magnitudes = projection.weight().abs()
    own = magnitudes[weight.coordinate.row, weight.coordinate.col]
    return 1 + int(torch.count_nonzero(magnitudes > own))


def head_room(subject: Subject, result: Scan) -> dict[str, Any]:
    """Return the largest activation met, and its share of what the dtypes at hand can hold.

    float16 is always among them: it ends at 65,504, and super activations come close.
    """
    dtypes = {subject.model.dtype, torch.float16}
    return {
        "largest": result.largest,
        "share": {
            str(dtype).removeprefix("torch."): result.largest / torch.finfo(dtype).max
            for dtype in sorted(dtypes, key=str)
        },
    }


def _place(coordinate: Coordinate) -> dict[str, int]:
    """Return a coordinate's indices by name; the expert only where there is one."""
    expert = {} if coordinate.expert is None else {"expert": coordinate.expert}
    return {"layer": coordinate.layer, **expert, "row": coordinate.row, "col": coordinate.col}


def as_dict(subject: Subject, result: Scan) -> dict[str, Any]:
    """Return the contract of ``superweight scan --json``."""
    return {
        "model": subject.name,
        "provenance": subject.provenance.as_dict(),
        "passes": result.passes,
        "head_room": head_room(subject, result),
        "stop_reason": result.stop_reason,
        "super_weights": [
            {
                **_place(weight.coordinate),
                "value": weight.value,
                "input": weight.input,
                "output": weight.output,
                "share": weight.share,
                "token": weight.token,
                "gain": weight.gain,
                "rank": result.ranks[weight.coordinate],
            }
            for weight in result.super_weights
        ],
        "super_activations": [
            {
                "channel": activation.channel,
                "token": activation.token,
                "onset": activation.onset,
                "last": activation.last,
                "magnitude": activation.magnitude,
            }
            for activation in result.super_activations
        ],
        "cancellers": [
            {
                **_place(canceller.coordinate),
                "value": canceller.value,
            }
            for canceller in result.cancellers
        ],
    }
