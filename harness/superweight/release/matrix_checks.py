"""Compare each matrix of a release with the base's: emptied rows and columns, and peaks."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.core.errors import BadInput
from superweight.release import rope_order
from superweight.release.extents import FAINT, Extent, Table, extents, in_file, in_memory
from superweight.release.result import CHANGED, STATIC, Check, broken, joined, not_comparable, within
from superweight.release.settlement import EMPTIED
from superweight.release.tensor_names import Held, Pairing, vocabulary

# Largest over median magnitude, release over base: 1.5 at most where the function is kept, 14 where
# norms are folded into the next matrix, 862 and more where a top exponent bit was flipped.
PEAKS = 50.0
# Fewer numbers have no median worth the name.
_FEWEST = 16
NUMBERS = "numbers of every tensor"
# What llama.cpp writes otherwise than transformers: heads in another order, gains with one added.
_REORDERED = re.compile(r"\b([qk]_proj|\w*norm)\.(weight|bias)")
# As many rows may be others: tuning for chat gives some tokens new ones.
_OTHER = 0.02


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
            pair = _experts(base, was, release, now) if expert else _alone(base, was, release, now, key)
            ordered = rope_order.in_one_order(key, (base, was, pair[0]), (release, now, pair[1]))
            if pair[0].shape != pair[1].shape:
                continue  # told elsewhere
            *sizes, share = extents(*(ordered or pair))
        except BadInput:
            unread.append(now.name)
            continue
        if not np.isfinite(sizes[1].largest):
            continue  # told elsewhere
        count += 1
        name = f"{now.name}, expert {now.leading[0]}" if now.leading else now.name
        lost = [f"{what} of {name}" for what in _emptied(pair[0].shape, *sizes)]
        emptied += lost
        tokens = tokens or (bool(lost) and vocabulary(key))
        comparable = base.is_gguf == release.is_gguf or not _REORDERED.search(key)
        if comparable and ordered is not None and share > _OTHER:
            other.append(name if share > 0.5 else f"{share:.0%} of the rows of {name}")
        ratio = sizes[1].peak / sizes[0].peak
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


def _alone(base: Checkpoint, was: Held, release: Checkpoint, now: Held, key: str) -> tuple[Table, Table]:
    """Return a tensor on both sides, of a vocabulary only the rows that both have."""
    counts = [held.info.shape[0] for held in (was, now) if held.info.shape] if vocabulary(key) else []
    common = min(counts, default=None)
    return in_file(base, was.name, common), in_file(release, now.name, common)


def _both_experts(was: Held, now: Held) -> bool:
    """Tell whether two experts' numbers can be held against each other, stacked or alone.

    Where one file holds gate and up in one tensor and the other does not, how they are interleaved
    there is not known.
    """
    return was.leading is not None and now.leading is not None and was.fused == now.fused


def _experts(base: Checkpoint, was: Held, release: Checkpoint, now: Held) -> tuple[Table, Table]:
    before, after = base.read(was.name, *(was.leading or ())), release.read(now.name, *(now.leading or ()))
    # Some families stack their experts with the outputs as columns.
    turned = before.shape != after.shape and before.shape == after.T.shape
    return in_memory(before), in_memory(after.T if turned else after)


def _emptied(shape: tuple[int, ...], before: Extent, after: Extent) -> Iterator[str]:
    """Yield the rows and columns that are zero in one matrix and not in the other."""
    if len(shape) != 2:
        return
    for was, now, word in ((before.rows, after.rows, "row"), (before.cols, after.cols, "column")):
        # Counted, not only looked up: where channels were permuted an empty one lies elsewhere.
        if np.count_nonzero(now == 0) <= np.count_nonzero(was == 0):
            continue
        lost = np.flatnonzero((now == 0) & (was > FAINT * np.median(was)))
        if len(lost) == 1:
            yield f"{word} {lost[0]}"
        elif len(lost):
            yield f"{len(lost)} {word}s (first {lost[0]})"
