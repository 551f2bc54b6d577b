"""How often a settled answer is not that of a full pass: `python -m benchmarks.stopping_rule`.

On synthetic decoders with known answers, and on the models at hand over nine prompts, each truncated at
every depth. A pass ends where it is settled for the first time; what it says then is held to what a full
pass says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.page import put
from benchmarks.synthetic import decoders
from superweight.core.errors import UnknownArchitecture
from superweight.detection.detect import detect
from superweight.detection.stopping_rule import CARRIES, settled
from superweight.detection.trace import Trace

PAGE = Path(__file__).parent.parent / "docs" / "remote.md"
BEGIN = "<!-- table: python -m benchmarks.stopping_rule -->"
TRIED = (1, 2, 3, 4, 8)
EACH = 50
MODELS = ("smollm2-135m-instruct-q4_1", "tiny-planted", "tiny-tuned", "tiny-plain")


def truncated(trace: Trace, blocks: int) -> Trace:
    """Return what a pass over the first ``blocks`` blocks alone leaves behind."""
    return replace(
        trace,
        writes=trace.writes[:blocks],
        arrived=trace.arrived[:blocks],
        residual=trace.residual[: blocks + 1],
        carry=trace.carry[:blocks],
        lanes=None if trace.lanes is None else trace.lanes[: blocks + 1],
        norms=trace.norms[:blocks],
    )


@dataclass(frozen=True)
class Outcome:
    """Where a trace was settled (None: nowhere before its end), and whether that is what a full pass says."""

    depth: int | None
    blocks: int
    right: bool


def outcome(trace: Trace, carries: int) -> Outcome:
    try:
        wanted = detect(trace).coordinates
    except UnknownArchitecture:
        wanted = frozenset()
    for depth in range(1, trace.blocks):
        found = settled(truncated(trace, depth), carries)
        if found is not None:
            return Outcome(depth, trace.blocks, found.coordinates == wanted)
    return Outcome(None, trace.blocks, right=True)


def row(name: str, traces: Sequence[Trace]) -> Iterator[str]:
    """Yield a line of the table: how many were wrong, of how many settled, for each number of blocks."""
    cells = []
    for carries in TRIED:
        outcomes = [outcome(trace, carries) for trace in traces]
        early = [item for item in outcomes if item.depth is not None]
        cells.append(f"{sum(not item.right for item in early)} / {len(early)}")
    yield f"| {name} | {len(traces)} | {' | '.join(cells)} |"


def table(each: int, models: Iterable[str]) -> Iterator[str]:
    """Yield the lines of the table."""
    head = [f"{count} (in force)" if count == CARRIES else str(count) for count in TRIED]
    yield f"| traces | how many | {' | '.join(head)} |"
    yield f"|---|---|{'---|' * len(TRIED)}"
    kinds: dict[str, list[Trace]] = {}
    for decoder in decoders(each):
        kinds.setdefault(decoder.kind, []).append(decoder.trace())
    for kind, traces in kinds.items():
        yield from row(kind, traces)
    for name in models:
        yield from row(f"{name}, nine prompts", list(_of_model(name)))


def _of_model(name: str) -> Iterator[Trace]:
    from superweight.checkpoints.registry import resolve
    from superweight.detection.run_trace import trace
    from superweight.measurement.corpus import prompts
    from superweight.model.loading import load

    subject = load(resolve(name), device="cpu")
    for text in prompts().values():
        yield trace(subject, text)


def main(each: int) -> None:
    text = "\n".join(table(each, MODELS))
    print(text)
    if PAGE.exists() and each >= EACH:
        put(text, PAGE, BEGIN)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EACH)
