"""Compare what base and release predict and write on the same text, and what their super weights carry."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from superweight.claims.evidence import Evidence
from superweight.measurement.conditions import INTACT
from superweight.measurement.corpus import continuations
from superweight.measurement.evaluate import BATCH, Measurement, Values, joined, predicted, reduced, token_nll
from superweight.measurement.generation import continue_greedily
from superweight.model.edits import Prune, Scale, edited
from superweight.release.limits import Limits
from superweight.release.result import QUALITY, Check, cannot_judge, graded, not_comparable, within
from superweight.release.text_checks import compare_texts, risen, shared

# Below this factor on the base's perplexity its own super weights carry too little to lose: the
# claim on pruning (C3) asks for ten times, and controls stay within 1.1.
_CARRIES = math.log(1.5)
_CARRIED = "what the super weights carry"


def compare_quality(base: Evidence, release: Evidence, limits: Limits) -> list[Check]:
    """Return the checks of predictions and writing, on windows that both models read alike."""
    if fault := _incomparable(base, release):
        return [cannot_judge(QUALITY, "predictions", fault)]
    seen = _predictions(base, release)
    divergence, same = float(seen.release.kl.mean()), float(seen.release.top1_agreement.mean())
    written = [
        continue_greedily(side.subject, list(continuations().values()))[INTACT] for side in (base, release)
    ]
    loops = [np.mean([item.loops for item in writing]) for writing in written]
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
            max(float(loops[1] - loops[0]), 0.0) / limits.loop_rate,
            base=float(loops[0]),
            release=float(loops[1]),
        ),
    ]
    return [*checks, *compare_texts(base, release, limits), _still_carried(seen, limits)]


def _incomparable(base: Evidence, release: Evidence) -> str | None:
    if not np.array_equal(base.windows.ids, release.windows.ids):
        return "the tokenizers cut the same text differently: predictions are not compared"
    return None


@dataclass(frozen=True)
class _Predictions:
    """NLL of both models, (windows, tokens - 1), and the release's distance from the base.

    ``pruned`` holds both models' NLL with the base's super weights pruned, or None if it has none.
    """

    base: Values
    release: Measurement
    pruned: tuple[Values, Values] | None


def _predictions(base: Evidence, release: Evidence) -> _Predictions:
    prunes = [Prune(place) for place in base.scan.coordinates]
    intact, apart, pruned = [], [], []
    none = torch.zeros(0, dtype=torch.long)
    for start in range(0, len(base.windows.ids), BATCH):
        ids = torch.from_numpy(base.windows.ids[start : start + BATCH])
        mine, theirs = shared(*(_predicted(side, ids, []) for side in (base, release)))
        intact.append(_nll(mine, ids))
        apart.append(reduced(mine, theirs, ids, none))
        if prunes:
            pruned.append([_nll(_predicted(side, ids, prunes), ids) for side in (base, release)])
    both = None
    if prunes:
        sides = zip(*pruned, strict=True)
        both = np.concatenate(next(sides)), np.concatenate(next(sides))
    return _Predictions(np.concatenate(intact), joined(apart), both)


def _predicted(side: Evidence, ids: torch.Tensor, edits: list[Scale]) -> torch.Tensor:
    with edited(side.subject, edits):
        return predicted(side.subject, ids.to(side.subject.device)).cpu()


def _nll(predicted: torch.Tensor, ids: torch.Tensor) -> Values:
    return token_nll(predicted, ids[:, 1:]).double().numpy()


def _still_carried(seen: _Predictions, limits: Limits) -> Check:
    if seen.pruned is None:
        return not_comparable(QUALITY, _CARRIED, "the base has no super weight to prune")
    base, release = (
        float(pruned.mean() - intact.mean())
        for pruned, intact in zip(seen.pruned, (seen.base, seen.release.nll), strict=True)
    )
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
