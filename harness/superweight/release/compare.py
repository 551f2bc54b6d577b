"""Compare a release with its base: super weights, models, and every depth of the request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from superweight.checkpoints.adapter_source import named_adapter
from superweight.checkpoints.model_ref import ModelRef
from superweight.checkpoints.recognition import has_weights, names_in, pickled
from superweight.checkpoints.registry import ModelEntry
from superweight.checkpoints.scalars import known_entry, open_model
from superweight.checkpoints.sources import fetch, is_hub_id, local_path, require_different_models
from superweight.checkpoints.tensors.open import is_mistral, is_remote
from superweight.claims.baselines import baseline_path, read
from superweight.claims.run_config import RunConfig
from superweight.core.coordinates import Coordinate
from superweight.core.errors import (
    CANNOT_RUN_HERE,
    BadInput,
    BrokenModel,
    TooLarge,
    Unavailable,
)
from superweight.release.limits import Limits
from superweight.release.result import (
    DEPTHS,
    STATIC,
    Check,
    Comparison,
    broken,
    cannot_judge,
)
from superweight.release.settlement import settled

if TYPE_CHECKING:
    from superweight.claims.evidence import Evidence
    from superweight.release.side import Side


@dataclass(frozen=True)
class CompareRequest:
    """What a person asked to be compared, as on the command line.

    ``require`` names the depths that must be reached for `KEPT`; None stands for all of ``depths``.
    """

    base: ModelRef
    release: ModelRef
    depths: tuple[str, ...] = DEPTHS
    limits: Limits = field(default_factory=Limits)
    run_config: RunConfig = field(default_factory=RunConfig)
    require: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for depth in self.required:
            if depth not in self.depths:
                raise BadInput(
                    f"--require {depth} asks for a depth that --depth leaves out; it looks at "
                    f"{', '.join(self.depths)}"
                )

    @property
    def engines(self) -> tuple[str, str]:
        """What runs base and release for predictions and text."""
        return self.run_config.engine_of_base(self.base), self.run_config.engine

    @property
    def required(self) -> tuple[str, ...]:
        return self.depths if self.require is None else self.require


def compare(
    request: CompareRequest,
    progress: Callable[[str], None] = lambda step: None,
    keep: Callable[[Evidence], None] = lambda evidence: None,
    held: Side | None = None,
) -> Comparison:
    """Compare a release with its base at the depths asked for, the cheapest first.

    ``keep`` is handed every model that had to be loaded, the base first, for a report to show.
    ``held`` is the base where it was loaded before: what was measured of it is not measured again.
    Raises `BadInput` for a base that cannot be used, a name that leads nowhere, or a release that is
    no model at all. A release that is one, but broken, is damaged. What cannot be looked at here is
    neither: the comparison says which depth was not reached, and what it needs.
    """
    seen = looked_at(request, progress, keep, held)
    names = request.base.entry.name, request.release.entry.name
    return Comparison(*names, settled(seen), request.required, request.engines)


def compare_all(
    requests: Sequence[CompareRequest],
    progress: Callable[[str], None] = lambda step: None,
    keep: Callable[[Evidence], None] = lambda evidence: None,
) -> list[Comparison]:
    """Compare several releases of one base, which is loaded and measured once."""
    first = requests[0]
    live = len(requests) > 1 and any(depth != STATIC for depth in first.depths)
    try:
        held = loaded_base(first, progress) if live else None
    except CANNOT_RUN_HERE:
        held = None  # each comparison says so for itself
    return [compare(request, progress, keep, held) for request in requests]


def looked_at(
    request: CompareRequest,
    progress: Callable[[str], None] = lambda step: None,
    keep: Callable[[Evidence], None] = lambda evidence: None,
    held: Side | None = None,
) -> list[Check]:
    """Return what `compare` sees, before a deeper look settles what a shallow one found."""
    base_entry, release_entry = request.base.entry, request.release.entry
    require_different_models(base_entry, release_entry)
    request.run_config.require_engines(request.release, request.base)
    deeper = tuple(depth for depth in request.depths if depth != STATIC)
    for entry in (base_entry, release_entry):
        # What is read from files alone need be no model that runs.
        by_files = not deeper and is_mistral(local_path(entry))
        if named_adapter(entry) is None and not by_files:
            _refuse_no_model(entry, allow_pickle="pickle" in request.run_config.trust)
    known = known_super_weights(base_entry, request.run_config.baselines)
    checks: list[Check] = []
    if STATIC in request.depths and known:
        progress("comparing the files")
        checks += _static(request, known)
    if deeper or not known:
        try:
            base = held or loaded_base(request, progress)
            keep(base.evidence)
        except CANNOT_RUN_HERE as error:
            checks += _unreached(deeper or (STATIC,), "base", f"the base cannot be run here: {error}")
        else:
            if STATIC in request.depths and not known:
                progress("comparing the files")
                checks += _static(request, frozenset(base.evidence.scan.coordinates))
            if deeper:
                checks += _live(request, base, progress, keep)
    return checks


def loaded_base(request: CompareRequest, progress: Callable[[str], None] = lambda step: None) -> Side:
    """Load a base, to be held against one release or many.

    Raises `BadInput` for a base or a corpus that cannot be used.
    """
    from superweight.release.side import Side

    progress(f"loading {request.base.entry.name}")
    base = Side(request.run_config.for_base(request.base).evidence(request.base, progress))
    _ = base.evidence.scan, base.evidence.windows
    return base


def _unreached(depths: Collection[str], name: str, reason: str) -> list[Check]:
    """Return the note, at each of ``depths``, that it could not be reached."""
    return [cannot_judge(depth, name, reason) for depth in depths]


def known_super_weights(entry: ModelEntry, baselines: Path) -> frozenset[Coordinate]:
    """Return a model's super weights from its committed baseline, else from the registry."""
    folder = baseline_path(baselines, entry.name, "*", "*", "C1")
    try:
        paths = sorted(baselines.glob(str(folder.relative_to(baselines))))
    except OSError as error:
        raise BadInput(f"cannot look for baselines in {baselines}: {error.strerror}") from error
    for path in paths:
        stored = read(path) or {}
        found = stored.get("evidence", {}).get("super_weights", [])
        if found:
            return frozenset(Coordinate.parse(item["at"]) for item in found)
    return known_entry(entry).coordinates


def _refuse_no_model(entry: ModelEntry, *, allow_pickle: bool) -> None:
    """Raise `BadInput` where nothing lies that could be a model; one that is broken is let through."""
    here = not is_remote(entry.source) and local_path(entry).exists()
    if here or not (is_remote(entry.source) or is_hub_id(entry.source)):
        fetch(entry, allow_pickle=allow_pickle)


def _static(request: CompareRequest, known: Collection[Coordinate]) -> list[Check]:
    from superweight.release.static_checks import compare_static

    for model in (request.base, request.release):
        if (why := _only_loaded(model.entry, request.run_config.trust)) is not None:
            return [cannot_judge(STATIC, "files", why)]
    base = open_model(request.base.entry)
    try:
        release = open_model(request.release.entry)
    except BrokenModel as error:
        return [broken(STATIC, "files", f"the release's files do not fit together: {error}")]
    except Unavailable:
        raise
    except BadInput as error:
        return [cannot_judge(STATIC, "files", f"the release's files cannot be read: {error}")]
    return compare_static(base, release, known, request.limits)


def _only_loaded(entry: ModelEntry, trust: Collection[str]) -> str | None:
    """Return why a model's files are not read without loading it: they are pickled, and trusted."""
    if "pickle" not in trust or is_remote(entry.source):
        return None
    # A model on the hub is fetched whole, as it will be for loading it.
    path = fetch(entry, allow_pickle=True).path if is_hub_id(entry.source) else local_path(entry)
    if not path.is_dir():
        return None
    names = names_in(path)
    if has_weights(names) or not pickled(names):
        return None
    return f"the pickled weights of {entry.name} are not read without loading them"


def _live(
    request: CompareRequest,
    base: Side,
    progress: Callable[[str], None],
    keep: Callable[[Evidence], None],
) -> list[Check]:
    from superweight.release.live_checks import live_checks
    from superweight.release.side import Side

    progress(f"loading {request.release.entry.name}")
    deeper = tuple(depth for depth in request.depths if depth != STATIC)
    try:
        release = request.run_config.evidence(request.release, progress)
    except BrokenModel as error:
        return [broken(deeper[0], "loading", f"the release cannot be run: {error}")]
    except BadInput as error:
        if isinstance(error, Unavailable) and not isinstance(error, TooLarge):
            raise  # a name or a network that a person can mend
        return _unreached(deeper, "loading", f"the release cannot be run here: {error}")
    keep(release)
    try:
        return live_checks(base, Side(release), deeper, request.limits, progress)
    finally:
        release.free()


def compare_loaded(request: CompareRequest, base: Evidence, release: Evidence) -> Comparison:
    """Compare two models that are in memory already, and their files, at every depth."""
    from superweight.release.live_checks import live_checks
    from superweight.release.side import Side

    known = known_super_weights(request.base.entry, request.run_config.baselines) or frozenset(
        base.scan.coordinates
    )
    sides = Side(base), Side(release)
    engines = base.engine.name, release.engine.name
    checks = [*_static(request, known), *live_checks(*sides, request.depths, request.limits)]
    return Comparison(base.subject.name, release.subject.name, settled(checks), request.required, engines)
