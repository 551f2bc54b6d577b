"""P3: the more of the set is pruned, the less of the super activation is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from superweight.claims.evidence import Evidence
from superweight.claims.properties.search import Budget, Finding, search, verdict_of
from superweight.claims.verdict import Claim, Verdict, not_applicable
from superweight.core.coordinates import Coordinate
from superweight.detection.detect import SuperActivation
from superweight.detection.scan import Scan
from superweight.measurement.batched_ablation import run_batched
from superweight.measurement.conditions import Condition, pruned
from superweight.measurement.corpus import default_prompt
from superweight.model.residual_stream import stream
from superweight.model.subject import Subject
from superweight.strategies import subsets

CLAIM = Claim("P3", "Pruning more of the set leaves no more of the super activation.", "Figure 4")
SEARCHED = "among nested subsets"
LESS, AS_MUCH = "less is left", "as much is left"
# Of the intact activation. Where the set is gone, what is left is of the size of the other channels, up
# to a few hundredths of it; which way that goes says nothing.
TOLERANCE = 0.05
# Conditions that are measured in one pass.
_AT_ONCE = 16

Pair = tuple[frozenset[Coordinate], frozenset[Coordinate]]


def judge(evidence: Evidence, budget: Budget) -> Verdict:
    """Draw subsets S within T, and compare the share of the strongest activation that each leaves."""
    scan = evidence.scan
    if scan.strongest is None or not scan.coordinates:
        return not_applicable(CLAIM, "no super weight is found")
    strongest = scan.strongest
    left: dict[frozenset[Coordinate], float] = {}

    def judge_all(pairs: Sequence[Pair]) -> list[Finding]:
        new = sorted({chosen for pair in pairs for chosen in pair} - left.keys(), key=sorted)
        for some in batched_lists(new, _AT_ONCE):
            left.update(zip(some, shares_left(evidence.subject, strongest, some), strict=True))
        return [_finding(pair) for pair in pairs]

    def _finding(pair: Pair) -> Finding:
        fewer, more = (left[chosen] for chosen in pair)
        if more <= fewer - TOLERANCE:
            return Finding(LESS)
        if more <= fewer + TOLERANCE:
            return Finding(AS_MUCH)
        names = [[str(place) for place in sorted(chosen)] for chosen in pair]
        return Finding(
            "more is left",
            {
                "pruned": names[0],
                "leaves": round(fewer, 4),
                "pruned too": names[1],
                "leaves then": round(more, 4),
            },
        )

    found = search(f"P3 {evidence.subject.name}", nested(scan), judge_all, budget)
    return verdict_of(CLAIM, {SEARCHED: found})


def nested(scan: Scan) -> SearchStrategy[Pair]:
    """Draw a subset of the super weights within another."""

    def pair(chosen: tuple[Coordinate, ...], count: int) -> Pair:
        return frozenset(chosen[: count % (len(chosen) + 1)]), frozenset(chosen)

    return st.builds(pair, subsets(scan), st.integers(0, len(scan.coordinates)))


def shares_left(
    subject: Subject, activation: SuperActivation, chosen: Sequence[frozenset[Coordinate]]
) -> list[float]:
    """Return what share of an activation is left where it peaks, with each set pruned, in one pass.

    The peak is looked for over the blocks that carry the activation.
    """
    names = [str(number) for number in range(len(chosen))]
    conditions = [
        Condition(name, pruned(sorted(places))) for name, places in zip(names, chosen, strict=True) if places
    ]
    ids = torch.tensor([subject.encode(default_prompt())], device=subject.device)
    seen: list[torch.Tensor] = []
    handles = [
        subject.architecture.blocks[layer].register_forward_hook(
            lambda _, __, output: seen.append(
                stream(output)[:, activation.token, activation.channel].detach()
            )
        )
        for layer in range(activation.onset, activation.last + 1)
    ]
    try:
        with torch.no_grad(), run_batched(subject, conditions, 1, from_start=True) as rows:
            subject.model.base_model(input_ids=ids.repeat(1 + len(conditions), 1), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    peaks = torch.stack(seen).abs().amax(0).float()
    intact = float(peaks[0])
    return [float(peaks[rows[name]].max()) / intact if name in rows else 1.0 for name in names]


def batched_lists(items: Sequence[frozenset[Coordinate]], size: int) -> Iterator[list[frozenset[Coordinate]]]:
    """Yield the items, so many at a time."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
