"""Compare what base and release predict and write on the same text, and what their super weights carry."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from superweight.measurement.evaluate import BATCH, Measurement, Values, joined, reduced
from superweight.model.edits import Prune
from superweight.release.chat_checks import compare_replies
from superweight.release.limits import Limits
from superweight.release.result import QUALITY, Check, cannot_judge, graded, not_comparable, within
from superweight.release.side import Side, over
from superweight.release.text_checks import compare_texts, risen

# Below this factor on the base's perplexity its own super weights carry too little to lose: the
# claim on pruning (C3) asks for ten times, and controls stay within 1.1.
_CARRIES = math.log(1.5)
_PRUNED_WINDOWS = 12
_CARRIED = "what the super weights carry"


def compare_quality(base: Side, release: Side, limits: Limits) -> list[Check]:
    """Return the checks of predictions and writing, on windows that both models read alike."""
    if fault := _incomparable(base, release):
        return [cannot_judge(QUALITY, "predictions", fault)]
    seen = _predictions(base, release)
    divergence, same = float(seen.release.kl.mean()), float(seen.release.top1_agreement.mean())
    loops = base.loops, release.loops
    checks = [
        risen("perplexity", seen.base, seen.release.nll, limits),
        # How far apart predictions are ranks soundness badly: careful rounding to four bits keeps
        # half of the likeliest tokens. It is told, and is no damage by itself.
        graded(
            QUALITY,
            "divergence",
            f"predictions diverge from the base's by {divergence:.4g} nats a token",
            0.0,
            worse=not divergence <= limits.divergence,
            kl=divergence,
        ),
        graded(
            QUALITY,
            "likeliest token",
            f"the likeliest token is the base's at {same:.1%} of positions",
            0.0,
            worse=not same >= limits.same_top,
            share=same,
        ),
        within(
            QUALITY,
            "loops",
            f"{loops[1]:.0%} of greedy continuations end in a loop, {loops[0]:.0%} of the base's",
            max(loops[1] - loops[0], 0.0) / limits.loop_rate,
            base=loops[0],
            release=loops[1],
        ),
    ]
    return [
        *checks,
        *compare_texts(base, release, limits),
        *compare_replies(base, release, limits),
        _still_carried(seen, limits),
    ]


def _incomparable(base: Side, release: Side) -> str | None:
    if not np.array_equal(base.evidence.windows.ids, release.evidence.windows.ids):
        return "the tokenizers cut the same text differently: predictions are not compared"
    return None


@dataclass(frozen=True)
class _Predictions:
    """NLL of both models, (windows, tokens - 1), and the release's distance from the base.

    ``pruned`` holds by how many nats pruning raises the NLL of base and release, or None where the
    base has no super weight.
    """

    base: Values
    release: Measurement
    pruned: tuple[float, float] | None


def _predictions(base: Side, release: Side) -> _Predictions:
    windows = base.evidence.windows
    size = min(base.vocabulary, release.vocabulary)
    every = torch.from_numpy(windows.ids).split(BATCH)
    none = torch.zeros(0, dtype=torch.long)
    apart = [
        reduced(
            over(base.log_probabilities(ids), size), over(release.log_probabilities(ids), size), ids, none
        )
        for ids in every
    ]
    intact = np.concatenate([base.nll(ids, size) for ids in every])
    prunes = [Prune(place) for place in base.evidence.scan.coordinates]
    pruned = None
    if prunes:
        # What pruning does is many times what one window differs from another: a few tell it.
        some = torch.from_numpy(windows.shuffled().ids[:_PRUNED_WINDOWS])
        rises = [side.rise_when_pruned(some, prunes) for side in (base, release)]
        pruned = rises[0], rises[1]
    return _Predictions(intact, joined(apart), pruned)


def _still_carried(seen: _Predictions, limits: Limits) -> Check:
    if seen.pruned is None:
        return not_comparable(QUALITY, _CARRIED, "the base has no super weight to prune")
    base, release = seen.pruned
    if base < _CARRIES:
        factor = math.exp(base)
        words = f"pruning the super weights multiplies the base's own perplexity by {factor:.4g} only"
        return not_comparable(QUALITY, _CARRIED, words)
    share = release / base
    return within(
        QUALITY,
        _CARRIED,
        f"pruning the super weights does {share:.1%} of the damage that it does to the base",
        limits.damage_share / share if share > 0 else math.inf,
        base_log_perplexity=base,
        release_log_perplexity=release,
    )
