"""Find the super weights of a live model: trace, detect, prune, and look again.

The paper repeats this "until the magnitudes of large maximum activations are greatly suppressed"
(section 3.1); here the criterion has a number and every ending has a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from superweight.core.coordinates import Coordinate
from superweight.core.errors import HarnessError, UnknownArchitecture
from superweight.core.notebook import html_table
from superweight.core.readable import readable
from superweight.detection.detect import BORDER, CARRIED, SHARE, detect
from superweight.detection.findings import (
    Canceller,
    Detection,
    Link,
    SuperActivation,
    SuperGain,
    SuperWeight,
)
from superweight.detection.run_trace import trace, trace_again
from superweight.detection.speculative import SpeculativeTrace, speculative_pruning
from superweight.detection.stopping_rule import Depth, Until, ends_pass, reached
from superweight.detection.trace import Trace
from superweight.model.batch_rows import rows_do_not_fit
from superweight.model.edits import Prune, Scale, active_edits, edited
from superweight.model.prefix_cache import keeping_prefixes
from superweight.model.subject import Subject

MAX_PASSES = 6

SUPPRESSED = "suppressed"
NONE_FOUND = "none found"
NO_SCALAR = "no scalar makes the activation"
NOT_REDUCIBLE = "not reducible"
MADE_AGAIN = "made again by others: pruning does not remove it"
PASS_LIMIT = "pass limit"  # noqa: S105  # a forward pass, no password


@dataclass(frozen=True, repr=False)
class Scan:
    """What a model's super weights are, how many forward passes it took, and why it ended.

    ``ranks`` gives each super weight's place by magnitude in its matrix, 1 for the largest.
    ``largest`` is the largest magnitude that the intact pass met anywhere. ``super_weights`` are the
    core, which the claims are about. ``companions`` make weaker activations or small parts of strong
    ones; ``successors`` make the activation again once the core is pruned. Neither is ever pruned with it.
    ``gains`` are those of norms behind the MLP, ``links`` what each block writes of the largest activation.
    ``depth`` says how far a model was looked at that was not run to its end.
    """

    super_activations: tuple[SuperActivation, ...]
    super_weights: tuple[SuperWeight, ...]
    cancellers: tuple[Canceller, ...]
    passes: int
    stop_reason: str
    ranks: Mapping[Coordinate, int | None]
    largest: float
    companions: tuple[SuperWeight, ...] = ()
    successors: tuple[SuperWeight, ...] = ()
    gains: tuple[SuperGain, ...] = ()
    links: tuple[Link, ...] = ()
    depth: Depth | None = None

    @property
    def provisional(self) -> bool:
        """Whether the pass was ended when the answer was settled, before the model's last block."""
        return self.depth is not None and self.depth.settled and not self.depth.whole

    @property
    def making_gains(self) -> tuple[SuperGain, ...]:
        """The gains through which the activation is written; not those that merely lie on its channel."""
        return tuple(gain for gain in self.gains if gain.makes)

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """Where the super weights are, in the order of ``super_weights``."""
        return tuple(weight.coordinate for weight in self.super_weights)

    @property
    def parts(self) -> dict[Coordinate, float]:
        """The share of its activation that each scalar makes, companions included."""
        return {weight.coordinate: weight.part for weight in (*self.companions, *self.super_weights)}

    @property
    def strongest(self) -> SuperActivation | None:
        """The largest super activation, or None."""
        return self.super_activations[0] if self.super_activations else None

    def prune(self) -> tuple[Scale, ...]:
        """Return the edits that set every super weight to zero."""
        return self.scale(0.0)

    def scale(self, factor: float) -> tuple[Scale, ...]:
        """Return the edits that multiply every super weight by ``factor``."""
        return tuple(Scale(coordinate, factor) for coordinate in self.coordinates)

    def __repr__(self) -> str:
        rows = [
            f"  {weight.coordinate}  value {readable(weight.value)}, makes {weight.share:.0%} of the write"
            for weight in self.super_weights
        ]
        return "\n".join([self._caption, *rows])

    def _repr_html_(self) -> str:
        rows = [
            (
                weight.coordinate,
                readable(weight.value),
                readable(weight.input),
                readable(weight.output),
                f"{weight.share:.0%}",
                self.ranks[weight.coordinate] or "",
            )
            for weight in self.super_weights
        ]
        columns = ("super weight", "value", "input", "output", "share", "rank in its matrix")
        return html_table(self._caption, columns, rows)

    @property
    def _caption(self) -> str:
        count, passes = len(self.super_weights), self.passes
        weights = f"{count} super weight{'' if count == 1 else 's'}"
        return f"{weights}, {self.stop_reason} after {passes} pass{'' if passes == 1 else 'es'}"


def scan(subject: Subject, text: str, until: Until | None = None) -> Scan:
    """Find the super weights of a subject with one forward pass over ``text``, and confirm them.

    The core is pruned and its activations are looked at again: in the same pass where it could be
    foreseen, or from the first block that it changes on in another. A scalar that still makes them, and
    made nearly enough of them in the intact model, joins the core; up to `MAX_PASSES` passes in all.
    One that takes over only once the core is gone is a successor, and ends the search.
    ``until`` says when the pass ends early; all passes end there then.
    The subject is left as it was. Raises `HarnessError` on a subject under edits: its detection
    would name the runner-up.
    """
    if active_edits(subject):
        raise HarnessError(f"{subject.name} is being edited; scan it before or after, not meanwhile")
    # Every block's output is kept: which block the edits will begin in is not known yet.
    with keeping_prefixes(subject, range(len(subject.architecture.blocks))) as prefixes:
        intact, foreseen = _first_pass(subject, text, until)
    first, largest = detect(intact), intact.largest
    depth = None if until is None else reached(intact, len(subject.architecture.blocks), until)
    if not first.super_weights:
        reason = NO_SCALAR if first.super_activations else NONE_FOUND
        return _scan(subject, first, (), passes=1, reason=reason, largest=largest, depth=depth)
    found = {weight.coordinate: weight for weight in first.super_weights}
    reason, passes = PASS_LIMIT, 1
    successors: tuple[SuperWeight, ...] = ()
    if foreseen is not None and _without(first, intact, foreseen):
        weights = first.super_weights
        return _scan(subject, first, weights, passes=1, reason=SUPPRESSED, largest=largest, depth=depth)
    while passes < MAX_PASSES:
        writers = [subject.architecture.projection(coordinate) for coordinate in found]
        with subject.at_hand(writers), edited(subject, [Prune(coordinate) for coordinate in found]):
            prefix = prefixes[min(found).layer].of_first_sequence()
            again = trace_again(subject, text, intact, prefix)
        passes += 1
        if suppressed(first, again):
            reason = SUPPRESSED
            break
        sites = {(activation.token, activation.channel) for activation in first.strongest}
        after = detect(again)
        makers = [
            weight
            for weight in (*after.super_weights, *after.companions)
            if (weight.token, weight.coordinate.row) in sites and weight.coordinate not in found
        ]
        own = {weight.coordinate for weight in makers if _made_enough(first, weight)}
        if not own:
            successors = tuple(makers)
            reason = MADE_AGAIN if successors else NOT_REDUCIBLE
            break
        found |= {weight.coordinate: weight for weight in makers if weight.coordinate in own}
    weights = tuple(found[coordinate] for coordinate in sorted(found))
    return _scan(
        subject,
        first,
        weights,
        passes=passes,
        reason=reason,
        largest=largest,
        successors=successors,
        depth=depth,
    )


def _without(first: Detection, intact: Trace, foreseen: SpeculativeTrace) -> bool:
    """Tell whether the copy was pruned of the very set that was found, and is without its activations."""
    pruned = foreseen.pruned == first.coordinates
    return pruned and suppressed(first, foreseen.traced(intact))


def _made_enough(intact: Detection, weight: SuperWeight) -> bool:
    """Tell whether a scalar made nearly enough of an activation of the intact model to be of its core."""
    return intact.parts.get(weight.coordinate, 0.0) * BORDER >= SHARE


def _first_pass(subject: Subject, text: str, until: Until | None) -> tuple[Trace, SpeculativeTrace | None]:
    """Trace the intact model, with a pruned copy beside it where its blocks compute on two rows."""
    blocks = len(subject.architecture.blocks)

    def hold_back(next_may_end: bool) -> None:
        if subject.stream is not None:
            subject.stream.hold_back = next_may_end

    def confirmed(found: Detection, trace: Trace) -> bool:
        """Tell whether the copy is without the activation; where none ran, another pass will tell."""
        foreseen = foresight.foreseen(trace.blocks)
        other = foreseen is None or foreseen.pruned != found.coordinates
        return other or _without(found, trace, foreseen)  # type: ignore[arg-type]  # None is another

    seen = None if until is None else ends_pass(until, blocks, confirmed, hold_back)
    try:
        with speculative_pruning(subject) as foresight:
            intact = trace(subject, text, foresight.look, seen)
    except UnknownArchitecture:
        if foresight.copy is None:
            raise
    except RuntimeError as error:
        if foresight.copy is None or not rows_do_not_fit(error):
            raise
    else:
        foreseen = foresight.foreseen(intact.blocks)
        fits = foreseen is not None and all(
            len(part) == intact.residual.shape[1] for part in foreseen.residual
        )
        return intact, foreseen if fits else None
    return trace(subject, text, seen=seen), None


def suppressed(intact: Detection, pruned: Trace) -> bool:
    """Tell whether the strongest activations have lost their plateau: no block still carries half."""
    return all(
        bool(
            (
                abs(pruned.residual[item.onset + 1 : item.last + 2, item.token, item.channel])
                < CARRIED * abs(item.magnitude)
            ).all()
        )
        for item in intact.strongest
    )


def _scan(
    subject: Subject,
    first: Detection,
    weights: tuple[SuperWeight, ...],
    *,
    passes: int,
    reason: str,
    largest: float,
    successors: tuple[SuperWeight, ...] = (),
    depth: Depth | None = None,
) -> Scan:
    return Scan(
        super_activations=first.super_activations,
        super_weights=weights,
        cancellers=first.cancellers,
        passes=passes,
        stop_reason=reason,
        ranks={weight.coordinate: _rank(subject, weight) for weight in weights},
        largest=largest,
        companions=tuple(item for item in first.companions if item not in weights),
        successors=successors,
        gains=first.gains,
        links=first.links,
        depth=depth,
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
