"""How often a settled answer is not that of a full pass: `python -m benchmarks.stopping_rule`.

On synthetic decoders with known answers, and on the models at hand over nine prompts, each truncated at
every depth. A pass ends where it is settled for the first time; what it says then is held to what a full
pass says.

`python -m benchmarks.stopping_rule scans` has whole scans end there, with the pruned copy that runs beside
them: of random models of transformers' classes with a planted scalar, and of the models at hand. Other
models are named behind: `50 FILE.gguf ...`, or `scans FILE.gguf ...`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.page import put
from benchmarks.synthetic import decoders
from superweight.checkpoints.registry import resolve
from superweight.core.errors import UnknownArchitecture
from superweight.detection.detect import detect
from superweight.detection.run_trace import trace
from superweight.detection.scan import scan
from superweight.detection.stopping_rule import CARRIES, Until, settled
from superweight.detection.trace import Trace
from superweight.measurement.corpus import prompts
from superweight.model.loading import load
from superweight.model.subject import Subject
from tests.model.families import FAMILIES, TEXT, Tiny, planted_in

PAGE = Path(__file__).parent.parent / "docs" / "remote.md"
BEGIN = "<!-- table: python -m benchmarks.stopping_rule -->"
SCANS = "<!-- table: python -m benchmarks.stopping_rule scans -->"
TRIED = (1, 2, 3, 4, 8)
# Of random models with so many blocks, those in which a scalar is planted, one at a time.
DEPTH, PLANTED = 12, (1, 4)
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
        yield from row(f"{Path(name).stem}, nine prompts", list(_of_model(name)))


def _of_model(name: str) -> Iterator[Trace]:
    subject = load(resolve(name), device="cpu")
    for text in prompts().values():
        yield trace(subject, text)


@dataclass
class Tally:
    """Whole scans: how many ended early, how many of them said what a full scan says, in which blocks."""

    scans: int = 0
    early: int = 0
    wrong: int = 0
    depths: list[int] = field(default_factory=list)

    def add(self, subject: Subject, text: str) -> None:
        whole = scan(subject, text)
        ended = scan(subject, text, Until())
        self.scans += 1
        if ended.depth.settled and not ended.depth.whole:
            self.early += 1
            self.wrong += ended.coordinates != whole.coordinates
            self.depths.append(ended.depth.blocks)

    def line(self, name: str) -> str:
        depths = f"{min(self.depths)} to {max(self.depths)}" if self.depths else ""
        return f"| {name} | {self.scans} | {self.early} | {self.wrong} | {depths} |"


def scans(models: Iterable[str]) -> Iterator[str]:
    """Yield the lines of the table of whole scans."""
    template = load(resolve("tiny-plain"), device="cpu")
    yield "| scans | how many | ended early | of them not what a full one says | blocks run |"
    yield "|---|---|---|---|---|"
    kinds: dict[str, list[Tiny]] = {}
    for family in FAMILIES.values():
        kinds.setdefault(family.kind, []).append(family)
    for kind, families in kinds.items():
        planted, plain = Tally(), Tally()
        for family in families:
            subject = deep(family).build(template)
            plain.add(subject, TEXT)
            for layer in PLANTED:
                with planted_in(subject, layer):
                    planted.add(subject, TEXT)
        yield planted.line(f"{kind}, one planted in block {' or '.join(map(str, PLANTED))} of {DEPTH}")
        yield plain.line(f"{kind}, none planted")
    for name in models:
        at_hand = Tally()
        subject = load(resolve(name), device="cpu")
        for text in prompts().values():
            at_hand.add(subject, text)
        yield at_hand.line(f"{Path(name).stem}, nine prompts")


def deep(family: Tiny) -> Tiny:
    """Return a family with `DEPTH` blocks, whatever its config calls them."""
    names = ["num_hidden_layers", *(name for name in ("n_layer",) if name in family.settings)]
    return replace(family, settings={**family.settings, **dict.fromkeys(names, DEPTH)})


def main(words: Sequence[str]) -> None:
    what, *others = words or [str(EACH)]
    models = (*MODELS, *others)
    if what == "scans":
        text = "\n".join(scans(models))
        print(text)
        put(text, PAGE, SCANS)
        return
    text = "\n".join(table(int(what), models))
    print(text)
    if PAGE.exists() and int(what) >= EACH:
        put(text, PAGE, BEGIN)


if __name__ == "__main__":
    main(sys.argv[1:])
