"""Compare the super weights in two checkpoints' files, without a forward pass."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import numpy as np

from superweight.checkpoints.recognition import SINGLE
from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.health import condition, zero_means_emptied
from superweight.checkpoints.tensors.locations import Location, locate, locations
from superweight.checkpoints.tensors.open import second_set
from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput, BrokenModel
from superweight.release.config_checks import compare_configs
from superweight.release.gain_checks import compare_gains
from superweight.release.limits import Limits
from superweight.release.matrix_checks import compare_matrices
from superweight.release.result import (
    KEPT,
    STATIC,
    Check,
    broken,
    cannot_judge,
    joined,
    not_comparable,
    within,
)
from superweight.release.tensor_names import Held, by_meaning, paired
from superweight.release.tokenizer_checks import compare_tokenizers

SECOND_SET = "second set of weights"
# Rounding to three bits moves the median number by a third of itself, another order by more than all.
_ALIKE = 0.5


def compare_static(
    base: Checkpoint, release: Checkpoint, coordinates: Collection[Coordinate], limits: Limits
) -> list[Check]:
    """Return the checks of the release's files against the base's.

    Raises `BadInput` when the base's own files cannot be read.
    """
    base.tensors()
    try:
        release.tensors()
    except BadInput as error:
        if isinstance(error, BrokenModel):
            return [broken(STATIC, "files", f"the release's files do not fit together: {error}")]
        return [cannot_judge(STATIC, "files", f"the release's files cannot be read: {error}")]
    try:
        shapes = _projections(release)
    except BadInput as error:
        # Packed in a form that only its own kernels read.
        return [cannot_judge(STATIC, "structure", f"the release's matrices cannot be read: {error}")]
    checks = [_structure(base, release, _projections(base), shapes), *_conditions(base, release)]
    checks += [*_second_set(release), *compare_configs(base, release), *compare_tokenizers(base, release)]
    if checks[0].status != KEPT:
        return checks  # a coordinate means nothing in a matrix of another shape
    checks += [_scalar(base, release, coordinate, limits) for coordinate in sorted(coordinates)]
    checks += compare_gains(base, release, limits)
    checks += compare_matrices(base, release, paired(base, release))
    if not coordinates:
        checks.append(not_comparable(STATIC, "super weights", "no super weight of the base is known"))
    return checks


def _projections(checkpoint: Checkpoint) -> dict[tuple[int, int | None], Location]:
    return {(location.layer, location.expert): location for location in locations(checkpoint)}


def _structure(
    base: Checkpoint,
    release: Checkpoint,
    wanted: dict[tuple[int, int | None], Location],
    found: dict[tuple[int, int | None], Location],
) -> Check:
    lost = [_named(place) for place in wanted if place not in found]
    changed = [
        f"{_named(place)} from {wanted[place].shape} to {found[place].shape}"
        for place in wanted
        if place in found and wanted[place].shape != found[place].shape
    ]
    if lost or changed:
        what = f"is missing of {joined(lost)}" if lost else f"changed shape: {joined(changed)}"
        return broken(STATIC, "structure", f"the output projection {what}")
    pairing = paired(base, release)
    if pairing.missing:
        count = len(pairing.missing)
        return broken(STATIC, "structure", f"{count} tensors are missing: {joined(pairing.missing)}")
    if pairing.reshaped:
        count = len(pairing.reshaped)
        return broken(STATIC, "structure", f"{count} tensors changed shape: {joined(pairing.reshaped)}")
    told = f"; {joined(pairing.told)}" if pairing.told else ""
    count = len(wanted)
    return within(STATIC, "structure", f"all {count} output projections are there, in shape{told}", 0.0)


def _named(place: tuple[int, int | None]) -> str:
    layer, expert = place
    return f"block {layer}" if expert is None else f"block {layer}, expert {expert}"


def _conditions(base: Checkpoint, release: Checkpoint) -> Iterator[Check]:
    if release.received is not None:
        yield not_comparable(STATIC, "numbers", "a remote release's tensors are not looked through whole")
        return
    tensors = release.tensors()
    names = list(tensors)
    seen = {name: condition(release, name) for name in names}
    faulty = [name for name in names if not seen[name].finite]
    own = {held.name: key for key, held in by_meaning(release).items()}
    before = by_meaning(base)
    emptied = [n for n in own if seen[n].zero and zero_means_emptied(tensors[n])]
    zero = [name for name in emptied if not _zero_already(base, before.get(own[name]))]
    if faulty:
        yield broken(STATIC, "numbers", f"{joined(faulty)} holds NaN or infinity")
    if zero:
        yield broken(STATIC, "numbers", f"{joined(zero)} is all zero")
    if not faulty and not zero:
        yield within(STATIC, "numbers", f"all {len(names)} tensors are finite and none was emptied", 0.0)


def _second_set(release: Checkpoint) -> Iterator[Check]:
    """Yield what a second set of weights in the same folder holds: another reader may take that one."""
    second = second_set(release)
    if second is None:
        return
    first, other = release.tensors(), second.tensors()
    differing = [
        name
        for name in sorted(first.keys() | other.keys())
        if name not in first or name not in other or not _equal(release, second, name)
    ]
    words = f"{SINGLE} was judged, as transformers loads it; the shards beside it "
    if differing:
        yield not_comparable(STATIC, SECOND_SET, f"{words}differ in {joined(differing)}")
    else:
        yield within(STATIC, SECOND_SET, f"{words}hold the same numbers", 0.0)


def _equal(one: Checkpoint, other: Checkpoint, name: str) -> bool:
    return bool(np.array_equal(one.read(name), other.read(name), equal_nan=True))


def _zero_already(base: Checkpoint, held: Held | None) -> bool:
    return held is not None and condition(base, held.name).zero


def _scalar(base: Checkpoint, release: Checkpoint, coordinate: Coordinate, limits: Limits) -> Check:
    name = f"super weight {coordinate}"
    (before,) = locate(base, coordinate)
    was = before.scalar(base, coordinate.row, coordinate.col)
    if not math.isfinite(was.value):
        raise BadInput(f"{base.name}: the base's own super weight {coordinate} is {was.value}; it is damaged")
    try:
        (after,) = locate(release, coordinate)
        now = after.scalar(release, coordinate.row, coordinate.col)
    except BadInput as fault:
        # Packed in a form that only its own kernels read.
        return cannot_judge(STATIC, name, f"super weight {coordinate} cannot be read: {fault}")
    if not math.isfinite(now.value):
        return broken(
            STATIC, name, f"super weight {coordinate} is {now.value} where the base has {was.value:.6g}"
        )
    apart = abs(now.value - was.value)
    error = apart / abs(was.value) if was.value else (math.inf if apart else 0.0)
    matrices = before.matrix(base), after.matrix(release)
    ranks = _rank(matrices[0], was.value), _rank(matrices[1], now.value)
    figures = {
        "base": was.value,
        "release": now.value,
        "relative_error": error if math.isfinite(error) else None,
        "base_rank": ranks[0],
        "release_rank": ranks[1],
        "step": now.step,
        "error_in_steps": apart / now.step if now.step else None,
        "row_alike": _alike(matrices[0][coordinate.row], matrices[1][coordinate.row]),
    }
    change = f"from {was.value:.6g} to {now.value:.6g}"
    if now.value == 0 and was.value != 0:
        return broken(STATIC, name, f"super weight {coordinate} was pruned: {change}", **figures)
    if now.value * was.value < 0:
        return broken(STATIC, name, f"super weight {coordinate} changed its sign: {change}", **figures)
    if error == 0:
        return within(
            STATIC, name, f"super weight {coordinate} is unchanged at {was.value:.6g}", 0.0, **figures
        )
    steps = f", {apart / now.step:.2g} of its block's steps" if now.step else ""
    moved = f"rank {ranks[0]} to {ranks[1]}"
    words = f"super weight {coordinate} went {change} ({error:.2%} off{steps}), {moved}"
    return within(STATIC, name, words, error / limits.value_error, **figures)


def _alike(before: np.ndarray, after: np.ndarray) -> bool:
    """Tell whether two rows are the same but for a few numbers: neurons moved or turned are not."""
    # By the median, which a super weight or two do not move.
    return bool(np.median(np.abs(after - before)) <= _ALIKE * np.median(np.abs(before)))


def _rank(matrix: np.ndarray, value: float) -> int:
    """Return a value's place by magnitude in its matrix, 1 for the largest."""
    return 1 + int(np.count_nonzero(np.abs(matrix) > abs(value)))
