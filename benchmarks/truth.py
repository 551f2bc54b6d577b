"""Precision and recall on synthetic decoders with known answers: `python -m benchmarks.truth [EACH]`.

Three detectors: ours; one argmax of input and output per block, which the paper's script shows; and
pruning that and looking again, which public detectors do. Then ours once more with each threshold moved.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from benchmarks.page import put
from benchmarks.synthetic import Decoder, Place, decoders
from superweight.core.coordinates import Coordinate
from superweight.core.errors import UnknownArchitecture
from superweight.detection import detect as detect_module
from superweight.detection import findings, gains
from superweight.detection.detect import detect

PAGE = Path(__file__).parent.parent / "docs" / "detection.md"
BEGIN = "<!-- table: python -m benchmarks.truth -->"
EACH = 100
AIM = 0.99
# The paper's script prints what is above it.
SPIKE = 50.0
MOST_PASSES = 10

Detector = Callable[[Decoder], set[Place]]


def ours(decoder: Decoder) -> set[Place]:
    """Return the core and the gains that make it."""
    try:
        found = detect(decoder.trace())
    except UnknownArchitecture:
        return set()
    return {*found.coordinates, *(gain.coordinate for gain in found.gains if gain.makes)}


def argmax_per_block(decoder: Decoder) -> set[Place]:
    """Return, for each block whose largest input and output spike, the scalar where the two meet."""
    found: set[Place] = set()
    for layer, writes in enumerate(decoder.trace().writes):
        for write in writes:
            col = int(np.abs(write.inputs).max(axis=0).argmax())
            row = int(np.abs(write.outputs).max(axis=0).argmax())
            if np.abs(write.inputs[:, col]).max() > SPIKE and np.abs(write.outputs[:, row]).max() > SPIKE:
                found.add(Coordinate(layer, row, col, write.expert))
    return found


def prune_and_look_again(decoder: Decoder) -> set[Place]:
    """Do that, prune what was found, and look again until nothing new is found."""
    found: set[Place] = set()
    for _ in range(MOST_PASSES):
        pruned = decoder.pruned(place for place in found if isinstance(place, Coordinate))
        new = argmax_per_block(pruned) - found
        if not new:
            break
        found |= new
    return found


DETECTORS: Mapping[str, Detector] = {
    "ours": ours,
    "argmax per block": argmax_per_block,
    "prune and look again": prune_and_look_again,
}


@dataclass(frozen=True)
class Score:
    """Mean precision and recall over decoders: of each, the right among the found, the found among the right.

    Where nothing is found precision is 1, and where nothing is true recall is.
    """

    precision: float
    recall: float

    def __str__(self) -> str:
        return f"{self.precision:.3f} / {self.recall:.3f}"

    @property
    def least(self) -> float:
        return min(self.precision, self.recall)


def score(detector: Detector, cases: Sequence[Decoder]) -> Score:
    precisions, recalls = [], []
    for case in cases:
        found, truth = detector(case), case.truth
        right = len(found & truth)
        precisions.append(right / len(found) if found else 1.0)
        recalls.append(right / len(truth) if truth else 1.0)
    return Score(float(np.mean(precisions)), float(np.mean(recalls)))


def by_kind(cases: Sequence[Decoder]) -> dict[str, list[Decoder]]:
    kinds: dict[str, list[Decoder]] = {}
    for case in cases:
        kinds.setdefault(case.kind, []).append(case)
    return kinds


# Each threshold with the modules that read it, and the values it is tried at; the middle one is in force.
THRESHOLDS: Mapping[str, tuple[tuple[ModuleType, ...], tuple[float, ...]]] = {
    "OUTLIER_RATIO": ((detect_module,), (15, 30, 60, 100, 200, 400)),
    "PERSISTENCE": ((detect_module,), (0.1, 0.3, 0.5, 0.7, 0.9)),
    "SPAN": ((detect_module,), (0.05, 0.1, 0.25, 0.4, 0.6)),
    "CORE_CHANNEL": ((findings,), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)),
    "COMPANION": ((detect_module,), (0.05, 0.15, 0.25, 0.4)),
    "SHARE": ((detect_module,), (0.02, 0.05, 0.08, 0.1, 0.12, 0.2, 0.3)),
    "LINK": ((detect_module,), (0.1, 0.3, 0.5, 0.7, 0.95)),
    "OUTSTANDING": ((gains,), (1.5, 2, 3, 5, 10, 50)),
    "PASSED": ((gains, findings), (0.01, 0.02, 0.05, 0.2, 0.5)),
}


@contextmanager
def moved(name: str, value: float) -> Iterator[None]:
    """Put a threshold elsewhere for the length of a ``with`` block."""
    modules, _ = THRESHOLDS[name]
    before = [getattr(module, name) for module in modules]
    for module in modules:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, stored in zip(modules, before, strict=True):
            setattr(module, name, stored)


def curve(kinds: Mapping[str, Sequence[Decoder]]) -> Iterator[str]:
    """Yield table lines: what each threshold gives at each of its values, and the kind that it costs most."""
    yield "| threshold | value | precision / recall | the worst kind | |"
    yield "|---|---|---|---|---|"
    for name, (modules, values) in THRESHOLDS.items():
        for value in values:
            in_force = getattr(modules[0], name) == value
            with moved(name, value):
                scores = {kind: score(ours, cases) for kind, cases in kinds.items()}
            mean = Score(
                float(np.mean([item.precision for item in scores.values()])),
                float(np.mean([item.recall for item in scores.values()])),
            )
            worst = min(scores, key=lambda kind: scores[kind].least)
            said = f"{worst}: {scores[worst]}" if scores[worst].least < AIM else "none below 0.99"
            yield f"| {name} | {value:g} | {mean} | {said} | {'in force' if in_force else ''} |"


def table(kinds: Mapping[str, Sequence[Decoder]]) -> Iterator[str]:
    """Yield table lines: precision / recall by kind and detector, those of ours below the aim named."""
    yield f"| kind | {' | '.join(DETECTORS)} | |"
    yield f"|---|{'---|' * len(DETECTORS)}---|"
    for kind, cases in kinds.items():
        scores = [score(detector, cases) for detector in DETECTORS.values()]
        met = "met" if scores[0].least >= AIM else "not met"
        yield f"| {kind} | {' | '.join(map(str, scores))} | {met} |"


def main(each: int) -> None:
    kinds = by_kind(decoders(each))
    lines = [
        f"{each} decoders of each of {len(kinds)} kinds, {each * len(kinds):,} in all; precision / recall, "
        f"the aim {AIM} for each of ours.",
        "",
        *table(kinds),
        "",
        "Ours with one threshold moved at a time, over all kinds:",
        "",
        *curve(by_kind(decoders(max(1, each // 3), seed=7))),
    ]
    text = "\n".join(lines)
    print(text)
    if PAGE.exists() and each >= EACH:
        put(text, PAGE, BEGIN)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EACH)
