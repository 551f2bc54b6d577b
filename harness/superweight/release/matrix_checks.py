"""Compare each matrix of a release with the base's: emptied rows and columns, and peaks."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.decoding import Floats
from superweight.core.errors import BadInput
from superweight.release.result import CHANGED, STATIC, Check, broken, joined, not_comparable, within
from superweight.release.settlement import EMPTIED
from superweight.release.tensor_names import Held, Pairing, vocabulary

# Largest over median magnitude, release over base: 1.5 at most where the function is kept, 14 where
# norms are folded into the next matrix, 862 and more where a top exponent bit was flipped.
PEAKS = 50.0
# Below this share of the median norm a row says nothing, and rounding may well empty it.
_FAINT = 0.01
# Fewer numbers have no median worth the name.
_FEWEST = 16
NUMBERS = "numbers of every tensor"
# Rounding to three bits moves the median number by a third of itself, hard tuning by a half; another
# row, by 1.4 times itself.
_MOVED = 0.9
# What llama.cpp writes otherwise than transformers: heads in another order, gains with one added.
_REORDERED = re.compile(r"\b([qk]_proj|\w*norm)\.(weight|bias)")
# As many rows may be others: tuning for chat gives some tokens new ones.
_OTHER = 0.02
# As many numbers of a row tell it from another.
_COLUMNS = 64
# As many numbers of a matrix give its median well enough.
_SAMPLE = 2**15


def compare_matrices(base: Checkpoint, release: Checkpoint, pairing: Pairing) -> Iterator[Check]:
    """Yield the checks of what every matrix holds, read once on each side.

    ``of_tokens`` says that what was emptied are tokens' own numbers, which only text that has those
    tokens shows.

    Nothing is yielded of remote files, whose tensors are not read whole.
    """
    if base.received is not None or release.received is not None:
        return
    emptied, peaks, unread, other, count, highest, tokens = [], [], [], [], 0, 0.0, False
    for key, (was, now) in pairing.pairs.items():
        expert = _both_experts(was, now)
        if not ((was.plain and now.plain) or expert) or was.info.elements < _FEWEST:
            continue
        try:
            if expert:
                before, after = _experts(base, was, release, now)
            else:
                before, after = _common(base, was, key, now), _common(release, now, key, was)
        except BadInput:
            unread.append(now.name)
            continue
        if before.shape != after.shape or not np.isfinite(after).all():
            continue  # told elsewhere
        count += 1
        name = f"{now.name}, expert {now.leading[0]}" if now.leading else now.name
        lost = [f"{what} of {name}" for what in _emptied(before, after)]
        emptied += lost
        tokens = tokens or (bool(lost) and vocabulary(key))
        comparable = base.is_gguf == release.is_gguf or not _REORDERED.search(key)
        if comparable and (share := _other(before, after)) > _OTHER:
            other.append(name if share > 0.5 else f"{share:.0%} of the rows of {name}")
        ratio = _peak(after) / _peak(before)
        highest = max(highest, ratio)
        if ratio > PEAKS:
            peaks.append((ratio, name))
    if unread and not count:
        yield not_comparable(STATIC, "matrices", f"{joined(unread)} cannot be read")
        return
    if emptied:
        yield broken(STATIC, EMPTIED, f"emptied: {joined(emptied)}", of_tokens=tokens)
    else:
        yield within(STATIC, EMPTIED, f"no row or column of {count} tensors was emptied", 0.0)
    yield _numbers(other, count)
    words = f"the largest number of a tensor, over its median, is at most {highest:.3g} times the base's"
    if peaks:
        worst, name = max(peaks)
        words = f"{name} holds a number {worst:.3g} times further from its median than the base's largest"
    yield within(STATIC, "peaks", words, highest / PEAKS, ratio=highest)


def _numbers(other: list[str], count: int) -> Check:
    """Return the check of how many tensors hold the base's numbers, or numbers near to them."""
    if not other:
        return within(STATIC, NUMBERS, f"all {count} tensors hold the base's numbers, or near to them", 0.0)
    words = f"{len(other)} of {count} tensors hold other numbers than the base's: {joined(other)}"
    # Permuted, turned and scaled models do as well: whether it matters, a forward pass shows.
    return Check(STATIC, NUMBERS, CHANGED, words, figures={"tensors": len(other), "of": count})


def _other(before: Floats, after: Floats) -> float:
    """Return the share of rows that hold other numbers, by the median of some of each row's."""
    rows = [
        values.reshape(len(values), -1) if values.ndim > 1 else values[None] for values in (before, after)
    ]
    was, now = (values[:, :: max(1, values.shape[1] // _COLUMNS)] for values in rows)
    # The floor lets rows be that are as good as empty, such as those of tokens nobody trained.
    size = np.median(np.abs(was), axis=1)
    floor = _FAINT * np.median(size)
    return float(np.mean(np.median(np.abs(now - was), axis=1) > _MOVED * size + floor))


def _common(checkpoint: Checkpoint, held: Held, key: str, other: Held) -> Floats:
    """Return a tensor, of a vocabulary only the rows that both have."""
    values = checkpoint.read(held.name)
    return values[: other.info.shape[0]] if vocabulary(key) and other.info.shape else values


def _both_experts(was: Held, now: Held) -> bool:
    """Tell whether two experts' numbers can be held against each other, stacked or alone.

    Where one file holds gate and up in one tensor and the other does not, how they are interleaved
    there is not known.
    """
    return was.leading is not None and now.leading is not None and was.fused == now.fused


def _experts(base: Checkpoint, was: Held, release: Checkpoint, now: Held) -> tuple[Floats, Floats]:
    before, after = base.read(was.name, *(was.leading or ())), release.read(now.name, *(now.leading or ()))
    # Some families stack their experts with the outputs as columns.
    turned = before.shape != after.shape and before.shape == after.T.shape
    return before, (after.T if turned else after)


def _emptied(before: Floats, after: Floats) -> Iterator[str]:
    if before.ndim != 2:
        return
    for axis, word in ((1, "row"), (0, "column")):
        was, now = np.abs(before).max(axis=axis), np.abs(after).max(axis=axis)
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
    flat = np.abs(values).reshape(-1)
    largest = float(flat.max())
    sample = flat[:: max(1, len(flat) // _SAMPLE)]
    sample = sample[sample > 0]
    return largest / float(np.median(sample)) if len(sample) and largest > 0 else 1.0
