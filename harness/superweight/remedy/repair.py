"""Repair a release: put its base's super weights back where they were damaged, and compare again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superweight.checkpoints.adapter_source import named_adapter
from superweight.checkpoints.model_ref import ModelRef, parse_model
from superweight.checkpoints.scalars import open_model
from superweight.checkpoints.sources import fetch, require_different_models
from superweight.checkpoints.tensors.open import is_remote, open_checkpoint
from superweight.core.coordinates import Coordinate, GainCoordinate
from superweight.core.errors import CANNOT_RUN_HERE, BadInput
from superweight.release.compare import CompareRequest, compare, known_super_weights, loaded_base
from superweight.release.result import CANNOT_JUDGE, DAMAGED, KEPT, STATIC, Check, Comparison
from superweight.remedy.copy_plan import planned
from superweight.remedy.gguf_copy import TYPES
from superweight.remedy.release_copy import write_copy
from superweight.remedy.restoration import Place, Restoration, require_base, restorations
from superweight.remedy.whole_folder import require_free

if TYPE_CHECKING:
    from superweight.release.side import Side

REPAIRED, NOTHING, ELSEWHERE = "repaired", "nothing to repair", "damaged elsewhere"
NO_SUPER_WEIGHTS = "no super weights"
_SCALAR = "super weight "


@dataclass(frozen=True)
class RepairRequest:
    """What a person asked to be repaired.

    ``comparison`` names base and release, and how they are compared before and after. ``named`` are
    scalars and gains that are put back whatever the comparison says of them. ``gguf_type`` is what a
    tensor of a GGUF file is stored as that cannot be changed in place.
    """

    comparison: CompareRequest
    target: Path
    named: tuple[Place, ...] = ()
    gguf_type: str = "F16"

    def __post_init__(self) -> None:
        if self.gguf_type not in TYPES:
            raise BadInput(f"{self.gguf_type!r} is no type to store a tensor as; give {' or '.join(TYPES)}")


@dataclass(frozen=True)
class Repair:
    """What came of a repair: its outcome in a word, what was put back, and the comparisons around it.

    ``copy`` is the path of the repaired model, None where nothing was written. ``left`` are super
    weights that differ from the base's and are within the limits, or are kept by what they do.
    """

    outcome: str
    reason: str
    before: Comparison | None = None
    after: Comparison | None = None
    restored: tuple[Restoration, ...] = ()
    stored: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    copy: Path | None = None

    @property
    def verdict(self) -> str | None:
        """The verdict of the last comparison, None where there was none."""
        last = self.after or self.before
        return None if last is None else last.verdict

    def as_dict(self) -> dict[str, Any]:
        """Return the contract of ``superweight repair --json``."""
        return {
            "outcome": self.outcome,
            "reason": self.reason,
            "copy": None if self.copy is None else str(self.copy),
            "restored": [
                {
                    "at": str(item.place),
                    "from": _finite(item.was),
                    "to": item.becomes,
                    "tensor": item.tensor,
                    "stray": item.stray,
                }
                for item in self.restored
            ],
            "stored": list(self.stored),
            "left_alone": list(self.left),
            "before": None if self.before is None else self.before.as_dict(),
            "after": None if self.after is None else self.after.as_dict(),
        }

    def __repr__(self) -> str:
        return as_text(self).rstrip("\n")


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def as_text(repair: Repair) -> str:
    """Return a repair for a terminal: what was put back, what was left alone, and the verdict."""
    lines = [f"  {item.words}" for item in repair.restored]
    lines += [f"  {words}" for words in repair.stored]
    lines += [f"  left alone: {words}" for words in repair.left]
    lines.append(f"{repair.outcome}: {repair.reason}")
    return "\n".join(lines) + "\n"


def repair(request: RepairRequest, progress: Callable[[str], None] = lambda step: None) -> Repair:
    """Write a copy of a release in which the base's super weights stand where its own were damaged.

    Damage is what `superweight.release.compare` calls so, at the depths of the request; a scalar that
    a fine-tune moved, within the limits or with its function kept, is left alone unless it is named.
    Nothing is written where no super weight is damaged. Raises `BadInput` for a base that is not this
    release's, a form that cannot be written, and a target that cannot be used.
    """
    wanted = request.comparison
    path = _local(wanted)
    require_different_models(wanted.base.entry, wanted.release.entry)
    require_free(request.target, *([] if (own := _place(wanted.base)) is None else [own]), path)
    base, release = open_model(wanted.base.entry), open_checkpoint(path)
    known, side = _super_weights(wanted, progress)
    named = frozenset(item for item in request.named if isinstance(item, Coordinate))
    if not known and not request.named:
        return Repair(
            NO_SUPER_WEIGHTS, f"{wanted.base} has no super weights, so there is nothing to put back"
        )
    require_base(base, release, known | named)
    side = side or _held(wanted, progress)
    before = compare(wanted, progress, held=side)
    scalars = {
        check.name.removeprefix(_SCALAR): check for check in before.checks if check.name.startswith(_SCALAR)
    }
    limit = wanted.limits.value_error
    by_files = {check.depth for check in before.checks if check.status != CANNOT_JUDGE} <= {STATIC}
    damaged = named | {
        place for place in known if _is_damaged(scalars.get(str(place)), limit if by_files else None)
    }
    gains = {item for item in request.named if isinstance(item, GainCoordinate)}
    gains |= set(_damaged_gains(before))
    left = _left_alone(scalars, damaged)
    if not damaged and not gains:
        return _nothing_restored(before, left)
    progress("writing the copy")
    restored = restorations(base, release, damaged, gains, limit)
    plan = planned(release, restored, request.gguf_type)
    copy = write_copy(release, path, request.target, plan)
    progress("comparing the copy with the base")
    again = replace(wanted, release=parse_model(str(copy)))
    after = compare(again, progress, held=side)
    count = f"{len(restored)} scalar{'s' if len(restored) != 1 else ''} put back in {copy}"
    reason = f"{count}; compared with the base it is {after.headline}"
    if after.verdict != KEPT:
        reason += f": {'; '.join(after.reasons[:3])}"
    return Repair(REPAIRED, reason, before, after, tuple(restored), plan.words, left, copy)


def _local(wanted: CompareRequest) -> Path:
    entry = wanted.release.entry
    if named_adapter(entry) is not None or is_remote(entry.source):
        raise BadInput(f"{entry.name} is no folder and no .gguf file; merge or download it, and give that")
    return fetch(entry, allow_pickle=False).path


def _place(base: ModelRef) -> Path | None:
    path = base.entry.root / base.entry.source
    return path if path.exists() else None


def _super_weights(
    wanted: CompareRequest, progress: Callable[[str], None]
) -> tuple[frozenset[Coordinate], Side | None]:
    """Return the base's super weights, and the base where it had to be loaded to find them."""
    known = known_super_weights(wanted.base.entry, wanted.run_config.baselines)
    if known:
        return known, None
    side = loaded_base(wanted, progress)
    return frozenset(side.evidence.scan.coordinates), side


def _held(wanted: CompareRequest, progress: Callable[[str], None]) -> Side | None:
    """Return the base, loaded and measured once for both comparisons, where one of them needs it."""
    if all(depth == STATIC for depth in wanted.depths):
        return None
    try:
        return loaded_base(wanted, progress)
    except CANNOT_RUN_HERE:
        return None  # the comparison says so for itself


def _is_damaged(check: Check | None, limit: float | None) -> bool:
    """Tell whether a comparison calls a scalar damaged; with ``limit`` no forward pass settled what it is.

    Then what lies beyond the limit counts.
    """
    if check is None:
        return False
    error = check.figures.get("relative_error") or 0.0
    return check.status == DAMAGED or (limit is not None and error > limit)


def _damaged_gains(before: Comparison) -> Sequence[GainCoordinate]:
    found = [check.figures.get("at") for check in before.checks if check.status == DAMAGED]
    return [GainCoordinate.parse(str(place)) for place in found if place is not None]


def _left_alone(scalars: dict[str, Check], damaged: Collection[Coordinate]) -> tuple[str, ...]:
    named = {str(place) for place in damaged}
    return tuple(
        check.reason
        for place, check in scalars.items()
        if place not in named and check.figures.get("base") != check.figures.get("release")
    )


def _nothing_restored(before: Comparison, left: tuple[str, ...]) -> Repair:
    if before.verdict == DAMAGED:
        worst = "; ".join(before.reasons[:3])
        reason = (
            "no super weight is; what is damaged is not mended by putting scalars back, and nothing was "
            f"written: {worst}"
        )
        return Repair(ELSEWHERE, reason, before, left=left)
    return Repair(
        NOTHING, f"no super weight is damaged ({before.headline}); nothing was written", before, left=left
    )
