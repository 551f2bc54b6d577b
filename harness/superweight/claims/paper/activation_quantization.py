"""C12: holding the super activation out of the rounding closes much of the gap that W8A8 opens."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from superweight.claims.budget import cut_short
from superweight.claims.evidence import Evidence
from superweight.claims.sequential_verdict import decided, settled
from superweight.claims.verdict import (
    AT_LEAST,
    RELATIVE_TOLERANCE,
    Claim,
    Criterion,
    Measured,
    Verdict,
    judged,
    measured,
    not_applicable,
)
from superweight.core.errors import BadInput
from superweight.core.statistics import LOOKS, jackknife, looks
from superweight.measurement.evaluate import Values
from superweight.measurement.sequential import in_stretches
from superweight.quantization.losses import Text
from superweight.quantization.sweep import HELD_OUT, NAIVE, activation_sweep

CLAIM = Claim(
    "C12",
    "Holding the super activation out of INT8 rounding closes much of the gap.",
    "equation 1, Tables 3 and 4",
)

# The paper's own shares are 0.60 (5.83 -> 5.74 of 5.68), 0.76 (8.70 -> 7.80 of 7.51) and 0.14 (5.32
# -> 5.31 of 5.25). Half of the least tells a part from nothing.
SHARE_CLOSED = 0.07
# Held out, the model still loses: it does not beat the full one by more than windows resolve,
# a hundredth of a nat (C10's reason).
RESOLVED = -0.01
# How far two machines may be apart, as a share of the gap, over all windows. An input on the edge
# between two steps goes one way or the other by the order in which a kernel adds, and all that follows
# goes with it, in every window by itself (docs/claims.md has the figures of four kernels).
KERNELS = 0.1
# Two machines may therefore stop at different looks. The first has so many windows that what they
# differ by there, which shrinks with the root of the windows, is less than twice that over all.
FEWEST = 16


def judge(evidence: Evidence) -> Verdict:
    """Round weights and all inputs of matrices to INT8, one step a tensor, with and without it."""
    if not evidence.scan.super_activations:
        return not_applicable(CLAIM, "no super activation is found")
    ids = torch.from_numpy(evidence.windows.shuffled().ids)

    def losses(part: torch.Tensor) -> dict[str, Values]:
        # Nothing is chosen on a text here, so all of it is measured on.
        text = Text(part, part[:0])
        return activation_sweep(evidence.subject, evidence.scan, text, (NAIVE, HELD_OUT))

    counts = [count for count in looks(len(ids)) if count >= min(FEWEST, len(ids))]
    seen: list[int] = []

    def judge_look(look: tuple[int, Mapping[str, Values]]) -> Verdict:
        seen.append(look[0])
        return _judged(evidence, *look)

    def affords(windows: int) -> bool:
        # Two schemes, and the intact model where no look has read so far.
        blocks = len(evidence.subject.architecture.blocks)
        return evidence.affords(3 * windows * ids.shape[1] * blocks)

    try:
        verdict = settled(in_stretches(losses, ids, counts, affords), judge_look)
    except BadInput as error:
        return not_applicable(CLAIM, str(error))
    return verdict if decided(verdict) or seen[-1] == len(ids) else cut_short(verdict, seen[-1], len(ids))


def _judged(evidence: Evidence, windows: int, rounded: Mapping[str, Values]) -> Verdict:
    naive, held = rounded[NAIVE], rounded[HELD_OUT]
    full = evidence.sequential_of_stream.intact(windows)
    if jackknife(naive - full).low <= 0:
        return not_applicable(CLAIM, "rounding all activations loses nothing that could be won back")
    both = np.stack([naive - held, naive - full], axis=1)
    closed, gap = both.mean(axis=0)
    apart = KERNELS * math.sqrt(LOOKS[-1] / windows)
    return judged(
        CLAIM,
        Criterion(
            "share of the gap in log-perplexity that is closed",
            measured(closed / gap, absolute=apart),
            jackknife(both, lambda means: means[:, 0] / means[:, 1]),
            SHARE_CLOSED,
            AT_LEAST,
        ),
        Criterion(
            "loss that is left, held out less full",
            measured(float((held - full).mean()), absolute=max(apart * gap, 0.01)),
            jackknife(held - full),
            RESOLVED,
            AT_LEAST,
        ),
        perplexities={
            name: _perplexity(losses, apart * gap)
            for name, losses in (("full", full), (NAIVE, naive), (HELD_OUT, held))
        },
        # Of the same model another machine may need fewer, or more.
        windows=measured(windows, absolute=LOOKS[-1]),
    )


def _perplexity(losses: Values, nats: float) -> Measured:
    """Return a perplexity that may differ by what kernels do, and by what other windows would."""
    error = 2 * float(losses.std()) / math.sqrt(len(losses))
    return measured(float(np.exp(losses.mean())), relative=max(nats, error, RELATIVE_TOLERANCE))
