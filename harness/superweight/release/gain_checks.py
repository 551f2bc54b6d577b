"""Compare the gains behind the MLP in two checkpoints' files: the largest of each norm."""

from __future__ import annotations

import math

from superweight.checkpoints.gains import GainTensor, norms_behind_mlp, outstanding
from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.core.coordinates import GainCoordinate
from superweight.core.errors import BadInput
from superweight.detection.gains import OUTSTANDING
from superweight.release.limits import Limits
from superweight.release.result import STATIC, Check, broken, within

# As a super weight's value, it decides nothing where the function is seen to be kept.
NAME = "super weight gains behind the MLP"


def compare_gains(base: Checkpoint, release: Checkpoint, limits: Limits) -> list[Check]:
    """Return one check of the outstanding gains of all norms; none where the base has no such gain.

    A norm that the release lacks is for the check of its structure.
    """
    try:
        others = {(norm.layer, norm.norm): norm for norm in norms_behind_mlp(release)}
        pairs = [
            (norm, others[norm.layer, norm.norm])
            for norm in norms_behind_mlp(base)
            if (norm.layer, norm.norm) in others
        ]
        moves = [move for pair in pairs if (move := _move(base, release, *pair)) is not None]
    except BadInput:
        return []  # packed: what is read of it is said elsewhere
    if not moves:
        return []
    error, place, was, now = max(moves, key=lambda move: move[0])
    figures = {
        "at": str(place),
        "base": was,
        "release": now if math.isfinite(now) else None,
        "gains": len(moves),
    }
    words = f"gain {place} went from {was:.6g} to {now:.6g}"
    if not math.isfinite(now) or (now == 0 and was != 0):
        return [broken(STATIC, NAME, f"{words}: it was lost", **figures)]
    if error == 0:
        return [within(STATIC, NAME, f"all {len(moves)} outstanding gains are unchanged", 0.0, **figures)]
    words = f"of {len(moves)} outstanding gains the most changed: {words} ({error:.2%} off)"
    return [within(STATIC, NAME, words, error / limits.value_error, **figures)]


def _move(
    base: Checkpoint, release: Checkpoint, before: GainTensor, after: GainTensor
) -> tuple[float, GainCoordinate, float, float] | None:
    """Return by how much a norm's largest gain changed, if it stands out: relative, where, from, to."""
    gains = before.values(base)
    channel = outstanding(gains, OUTSTANDING)
    if channel is None or channel >= after.tensor.shape[0]:
        return None
    was, now = float(gains[channel]), after.scalar(release, channel).value
    error = abs(now - was) / abs(was) if math.isfinite(now) else math.inf
    return error, GainCoordinate(before.layer, before.norm, channel), was, now
