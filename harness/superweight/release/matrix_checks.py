"""What lies inside each matrix of a release against the base's: emptied rows and columns, and peaks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.decoding import Floats
from superweight.core.errors import BadInput
from superweight.release.result import STATIC, Check, broken, joined, not_comparable, within
from superweight.release.tensor_names import Held, Pairing, vocabulary

# Largest over median magnitude, release over base: 1.5 at most where the function is kept, 14 where
# norms are folded into the next matrix, 862 and more where a top exponent bit was flipped.
PEAKS = 50.0
# Below this share of the median norm a row says nothing, and rounding may well empty it.
_FAINT = 0.01
# Fewer numbers have no median worth the name.
_FEWEST = 16
# As many numbers of a matrix give its median well enough.
_SAMPLE = 2**15


def compare_matrices(base: Checkpoint, release: Checkpoint, pairing: Pairing) -> Iterator[Check]:
    """Yield the checks of what every matrix holds, read once on each side.

    Nothing is yielded of remote files, whose tensors are not read whole.
    """
    if base.received is not None or release.received is not None:
        return
    emptied, peaks, unread, count, highest = [], [], [], 0, 0.0
    for key, (was, now) in pairing.pairs.items():
        if not (was.plain and now.plain) or was.info.elements < _FEWEST:
            continue
        try:
            before, after = _magnitudes(base, was, key, now), _magnitudes(release, now, key, was)
        except BadInput:
            unread.append(now.name)
            continue
        if before.shape != after.shape or not np.isfinite(after.max()):
            continue  # told elsewhere
        count += 1
        emptied += [f"{what} of {now.name}" for what in _emptied(before, after)]
        ratio = _peak(after) / _peak(before)
        highest = max(highest, ratio)
        if ratio > PEAKS:
            peaks.append((ratio, now.name))
    if unread and not count:
        yield not_comparable(STATIC, "matrices", f"{joined(unread)} cannot be read")
        return
    if emptied:
        yield broken(STATIC, "rows and columns", f"emptied: {joined(emptied)}")
    else:
        yield within(STATIC, "rows and columns", f"no row or column of {count} tensors was emptied", 0.0)
    words = f"the largest number of a tensor, over its median, is at most {highest:.3g} times the base's"
    if peaks:
        worst, name = max(peaks)
        words = f"{name} holds a number {worst:.3g} times further from its median than the base's largest"
    yield within(STATIC, "peaks", words, highest / PEAKS, ratio=highest)


def _magnitudes(checkpoint: Checkpoint, held: Held, key: str, other: Held) -> Floats:
    """Return a tensor's magnitudes, of a vocabulary only the rows that both have."""
    values = np.abs(checkpoint.read(held.name))
    return values[: other.info.shape[0]] if vocabulary(key) and other.info.shape else values


def _emptied(before: Floats, after: Floats) -> Iterator[str]:
    if before.ndim != 2:
        return
    for axis, word in ((1, "row"), (0, "column")):
        was, now = before.max(axis=axis), after.max(axis=axis)
        # Counted, not only looked up: where channels were permuted an empty one lies elsewhere.
        if np.count_nonzero(now == 0) <= np.count_nonzero(was == 0):
            continue
        lost = np.flatnonzero((now == 0) & (was > _FAINT * np.median(was)))
        if len(lost) == 1:
            yield f"{word} {lost[0]}"
        elif len(lost):
            yield f"{len(lost)} {word}s (first {lost[0]})"


def _peak(values: Floats) -> float:
    """Return the largest magnitude over the median of those that are not zero; 1 for nothing but zeros."""
    flat = values.reshape(-1)
    largest = float(flat.max())
    sample = flat[:: max(1, len(flat) // _SAMPLE)]
    sample = sample[sample > 0]
    return largest / float(np.median(sample)) if len(sample) and largest > 0 else 1.0
