"""C13: clipping, rounding and restoring the super weights makes larger blocks usable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from superweight.claims.budget import cut_short
from superweight.claims.evidence import Evidence
from superweight.claims.sequential_verdict import decided, settled
from superweight.claims.verdict import (
    AT_LEAST,
    Claim,
    Criterion,
    Verdict,
    judged,
    measured,
    not_applicable,
)
from superweight.core.errors import BadInput
from superweight.core.statistics import jackknife
from superweight.measurement.evaluate import Values
from superweight.quantization.sweep import BlockSize, Sweep

CLAIM = Claim(
    "C13",
    "Holding the super weights out of INT4 rounding helps, and the more the larger the blocks.",
    "equation 2, Figure 7",
)

# A hundredth of a nat, one per cent of perplexity, is what windows resolve (C10's reason): less is
# no gain, and a hold-out that changes nothing must not pass.
GAIN = 0.01


def judge(evidence: Evidence) -> Verdict:
    """Compare plain round-to-nearest with the paper's method at the smallest and the largest block."""
    if not evidence.scan.coordinates:
        return not_applicable(CLAIM, "no super weight is found")
    try:
        rounded = evidence.rounded_weights
        verdict = settled(rounded.looks(), _judged)
    except BadInput as error:
        return not_applicable(CLAIM, str(error))
    read = verdict.evidence["windows"]
    return (
        verdict if decided(verdict) or read == rounded.windows else cut_short(verdict, read, rounded.windows)
    )


def _judged(rounded: Sweep) -> Verdict:
    verdict = verdict_on(rounded.intact, rounded.blocks)
    return replace(verdict, evidence={**verdict.evidence, "windows": len(rounded.intact)})


def verdict_on(intact: Values, blocks: Sequence[BlockSize]) -> Verdict:
    """Return the verdict over block sizes, smallest first; of any quantiser, fake or real.

    ``intact``: mean NLL of each window, (windows,).
    """
    first, last = blocks[0], blocks[-1]
    gains = {block.size: block.plain - block.held_out for block in blocks}
    grown = gains[last.size] - gains[first.size]
    return judged(
        CLAIM,
        _gain("nats won at the largest block", gains[last.size]),
        _gain("nats won at the largest block less those at the smallest", grown),
        intact_perplexity=_perplexity(intact),
        blocks={
            f"{block.size:,}": {
                "clipped_at": block.clip,
                "plain": _perplexity(block.plain),
                "held_out": _perplexity(block.held_out),
            }
            for block in blocks
        },
    )


def _gain(name: str, values: Values) -> Criterion:
    return Criterion(name, measured(float(values.mean()), absolute=0.02), jackknife(values), GAIN, AT_LEAST)


def _perplexity(losses: Values) -> object:
    # Of a broken model the loss moves more between kernels than the perplexity of a whole one.
    return measured(float(np.exp(losses.mean())), relative=0.05)
