"""A whole comparison: the base's super weights, the two models, and the depths that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from superweight.checkpoints.registry import resolve
from superweight.checkpoints.scalars import known_entry, open_model
from superweight.checkpoints.sources import fetch, is_hub_id, local_path, require_different_models
from superweight.checkpoints.tensors import locations
from superweight.checkpoints.tensors.open import is_remote
from superweight.claims.baselines import baseline_path, read
from superweight.claims.run_config import RunConfig
from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput
from superweight.release.limits import Limits
from superweight.release.result import (
    ACTIVATIONS,
    DEPTHS,
    QUALITY,
    STATIC,
    Check,
    Comparison,
    broken,
)
from superweight.release.settlement import settled

if TYPE_CHECKING:
    from superweight.claims.evidence import Evidence
    from superweight.model.subject import Subject


@dataclass(frozen=True)
class CompareRequest:
    """What a person asked to be compared, as on the command line."""

    base: str
    release: str
    depths: tuple[str, ...] = DEPTHS
    limits: Limits = field(default_factory=Limits)
    run_config: RunConfig = field(default_factory=RunConfig)


def compare(
    request: CompareRequest,
    progress: Callable[[str], None] = lambda step: None,
    keep: Callable[[Evidence], None] = lambda evidence: None,
) -> Comparison:
    """Compare a release with its base at the depths asked for, the cheapest first.

    ``keep`` is handed every model that had to be loaded, the base first, for a report to show.
    Raises `BadInput` for a base that cannot be used, or a release that is no model at all; a
    release that is one, but broken, is a damaged release.
    """
    base_entry, release_entry = resolve(request.base), resolve(request.release)
    require_different_models(base_entry, release_entry)
    for spec in (request.base, request.release):
        _refuse_no_model(spec)
    checks: list[Check] = []
    known = known_super_weights(request.base, request.run_config.baselines)
    base = None
    if request.depths != (STATIC,) or not known:
        progress(f"loading {request.base}")
        base = request.run_config.evidence(request.base, progress)
        keep(base)
        known = known or frozenset(base.scan.coordinates)
    if STATIC in request.depths:
        progress("comparing the files")
        checks += _static(request, known)
    if base is not None and request.depths != (STATIC,):
        checks += _live(request, base, progress, keep)
    return Comparison(base_entry.name, release_entry.name, settled(checks))


def known_super_weights(spec: str, baselines: Path) -> frozenset[Coordinate]:
    """Return a model's super weights from its committed baseline, else from the registry."""
    folder = baseline_path(baselines, resolve(spec).name, "*", "*", "C1")
    try:
        paths = sorted(baselines.glob(str(folder.relative_to(baselines))))
    except OSError as error:
        raise BadInput(f"cannot look for baselines in {baselines}: {error.strerror}") from error
    for path in paths:
        stored = read(path) or {}
        found = stored.get("evidence", {}).get("super_weights", [])
        if found:
            return frozenset(Coordinate.parse(item["at"]) for item in found)
    return known_entry(spec).coordinates


def _refuse_no_model(spec: str) -> None:
    """Raise `BadInput` where nothing lies that could be a model; one that is broken is let through."""
    entry = resolve(spec)
    here = not is_remote(entry.source) and local_path(entry).exists()
    if here or not (is_remote(entry.source) or is_hub_id(entry.source)):
        fetch(entry)


def _static(request: CompareRequest, known: Collection[Coordinate]) -> list[Check]:
    from superweight.release.static_checks import compare_static

    base = open_model(resolve(request.base))
    try:
        release = open_model(resolve(request.release))
    except BadInput as error:
        return [broken(STATIC, "files", f"the release's files do not fit together: {error}")]
    return compare_static(base, release, known, request.limits)


def _live(
    request: CompareRequest,
    base: Evidence,
    progress: Callable[[str], None],
    keep: Callable[[Evidence], None],
) -> list[Check]:
    _ = base.scan, base.windows  # a base or a corpus that cannot be used is bad input, not damage
    progress(f"loading {request.release}")
    try:
        release = request.run_config.evidence(request.release, progress)
    except BadInput as error:
        return [broken(ACTIVATIONS, "loading", f"the release cannot be run: {error}")]
    keep(release)
    return live_checks(request, base, release, progress)


def live_checks(
    request: CompareRequest,
    base: Evidence,
    release: Evidence,
    progress: Callable[[str], None] = lambda step: None,
) -> list[Check]:
    """Return the checks of the two deeper depths on models that are loaded."""
    from superweight.release.activation_checks import compare_activations
    from superweight.release.config_checks import compare_settings
    from superweight.release.function_match import compare_function, jump
    from superweight.release.quality_checks import compare_quality

    checks: list[Check] = []
    if any(open_model(resolve(spec)).is_gguf for spec in (request.base, request.release)):
        # A GGUF file has no config.json; its conversion has.
        checks.append(compare_settings(*(side.subject.model.config.to_dict() for side in (base, release))))
    try:
        if ACTIVATIONS in request.depths:
            progress("comparing the activations")
            share = release.scan.largest / _largest_number(request.release, release.subject)
            jumps = jump(base.subject), jump(release.subject)
            stretch = jumps[1].norm / jumps[0].norm
            checks += compare_activations(base.scan, release.scan, share, request.limits, stretch)
            if base.scan.super_activations:
                checks.append(compare_function(*jumps, request.limits))
        if QUALITY in request.depths:
            progress("comparing the predictions")
            checks += compare_quality(base, release, request.limits)
    except BadInput as error:
        # An overflow, or a structure that the base has not.
        checks.append(broken(ACTIVATIONS, "forward pass", f"the release cannot be measured: {error}"))
    return checks


def compare_loaded(request: CompareRequest, base: Evidence, release: Evidence) -> Comparison:
    """Compare two models that are in memory already, and their files, at every depth."""
    known = known_super_weights(request.base, request.run_config.baselines) or frozenset(
        base.scan.coordinates
    )
    checks = [*_static(request, known), *live_checks(request, base, release)]
    return Comparison(base.subject.name, release.subject.name, settled(checks))


def _largest_number(spec: str, subject: Subject) -> float:
    """Return the largest number of the dtype that the release is published in."""
    import torch

    stored = locations(open_model(resolve(spec)))[0].tensor.dtype
    published = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
    return torch.finfo(published.get(stored, subject.model.dtype)).max
