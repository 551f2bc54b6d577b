"""Finding: the scan beside a bare forward pass, and beside the two ways that public code takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.timing import Row, aimed, in_turn, ratios
from superweight.core.coordinates import Coordinate
from superweight.detection.detect import detect
from superweight.detection.run_trace import trace
from superweight.detection.scan import scan
from superweight.measurement.corpus import default_prompt
from superweight.model.edits import Prune, edited
from superweight.model.subject import Subject

SPIKE = 50.0
# What the public detector reads where nothing else is said (github.com/fabianandresgrob/super_weights,
# detection/detector.py): its number of passes depends on the text more than ours.
ITS_TEXT = "Apple Inc. is a worldwide tech company."
# The public detector goes on until no output spikes, or so often.
MOST_PASSES = 10


@contextmanager
def spikes(subject: Subject) -> Iterator[dict[int, tuple[float, int, float, int]]]:
    """Read, block by block, the largest |X| and |Y| of down_proj and their channels."""
    seen: dict[int, tuple[float, int, float, int]] = {}

    def reader(layer):
        def read(_, arguments, output):
            inputs, outputs = arguments[0].abs().flatten(0, -2), output.abs().flatten(0, -2)
            (into, col), (out, row) = inputs.max(0).values.max(0), outputs.max(0).values.max(0)
            seen[layer] = float(into), int(col), float(out), int(row)

        return read

    hooks = [
        projection.module.register_forward_hook(reader(projection.layer))
        for projection in subject.architecture.projections
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def by_the_papers_script(subject: Subject, ids: torch.Tensor) -> tuple[list[int], list[int]]:
    """Return the blocks whose inputs and outputs spike; pairing them is left to a person.

    It takes two passes: one for the inputs' plot, one for the outputs'.
    """
    found: list[list[int]] = []
    for which in (0, 2):
        with torch.no_grad(), spikes(subject) as seen:
            subject.model(input_ids=ids, use_cache=False)
        found.append([layer for layer, values in seen.items() if values[which] > SPIKE])
    return found[0], found[1]


def by_pruning_and_looking_again(subject: Subject, ids: torch.Tensor) -> list[Coordinate]:
    """Return every coordinate at which a block's input and output spike, pruned one pass after another."""
    found: list[Coordinate] = []
    for _ in range(MOST_PASSES):
        with edited(subject, [Prune(place) for place in found]), torch.no_grad(), spikes(subject) as seen:
            subject.model(input_ids=ids, use_cache=False)
        new = [
            Coordinate(layer, row, col)
            for layer, (into, col, out, row) in seen.items()
            if into > SPIKE and out > SPIKE and Coordinate(layer, row, col) not in found
        ]
        if not new:
            break
        found += new
    return found


def rows(subject: Subject, repeats: int = 9) -> list[Row]:
    """Return the lines on finding."""
    text = default_prompt()
    ids = torch.tensor([subject.encode(text)], device=subject.device)

    def bare() -> None:
        with torch.no_grad():
            subject.model(input_ids=ids, use_cache=False)

    seconds = in_turn(
        {
            "bare": bare,
            "find": lambda: detect(trace(subject, text)),
            "scan": lambda: scan(subject, text),
            "script": lambda: by_the_papers_script(subject, ids),
            "again": lambda: by_pruning_and_looking_again(subject, ids),
        },
        repeats,
    )
    on_its_text = _on_its_text(subject, repeats)
    ours = scan(subject, text).coordinates
    inputs, outputs = by_the_papers_script(subject, ids)
    theirs = by_pruning_and_looking_again(subject, ids)
    missed = [str(place) for place in ours if place not in theirs]
    find, whole = ratios(seconds, "find", "bare"), ratios(seconds, "scan", "bare")
    faster = ratios(seconds, "again", "scan")
    group = "finding"
    spiking = f"{len(inputs)} input and {len(outputs)} output spikes to pair by eye"
    listed = f"{len(theirs)} coordinates, misses {', '.join(missed) or 'none'}"
    return [
        aimed(
            group,
            "one pass, hooks and algebra, over a bare forward pass",
            find.median,
            most=1.25,
            figure=str(find),
        ),
        Row(group, f"whole scan with the confirming look: {', '.join(map(str, ours))}", str(whole)),
        Row(group, f"the paper's script: {spiking}", str(ratios(seconds, "script", "bare"))),
        Row(group, f"prune and look again: {listed}", str(ratios(seconds, "again", "bare"))),
        Row(group, "prune and look again, over our scan", str(faster)),
        *on_its_text,
    ]


def _on_its_text(subject: Subject, repeats: int) -> list[Row]:
    """Return the same comparison on the text that the public detector reads by itself."""
    ids = torch.tensor([subject.encode(ITS_TEXT)], device=subject.device)
    ways = {
        "scan": lambda: scan(subject, ITS_TEXT),
        "again": lambda: by_pruning_and_looking_again(subject, ids),
    }
    ours, theirs = ways["scan"]().coordinates, ways["again"]()
    missed = [str(place) for place in ours if place not in theirs]
    faster = ratios(in_turn(ways, repeats), "again", "scan")
    what = (
        f"the same on the public detector's own text: ours {', '.join(map(str, ours))}; "
        f"theirs {len(theirs)} coordinates, misses {', '.join(missed) or 'none'}"
    )
    return [aimed("finding", what, faster.median, least=8, figure=str(faster))]
