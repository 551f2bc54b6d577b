"""Check two loaded models against each other: their activations and their predictions."""

from __future__ import annotations

from collections.abc import Callable, Collection

from superweight.checkpoints.scalars import open_model
from superweight.core.errors import BadInput, BrokenModel, one_line
from superweight.model.subject import Subject
from superweight.release.activation_checks import compare_activations
from superweight.release.config_checks import compare_settings
from superweight.release.function_match import compare_functions, jumps
from superweight.release.head_room import largest_number, largest_of_dtype
from superweight.release.limits import Limits
from superweight.release.quality_checks import compare_quality
from superweight.release.result import ACTIVATIONS, QUALITY, Check, broken, cannot_judge
from superweight.release.side import Side


def live_checks(
    base: Side,
    release: Side,
    depths: Collection[str],
    limits: Limits,
    progress: Callable[[str], None] = lambda step: None,
) -> list[Check]:
    """Return the checks of the two deeper depths, as far as they are among ``depths``."""

    def activations() -> list[Check]:
        scans = base.evidence.scan, release.evidence.scan
        largest = largest_number(release.subject)
        share = largest.magnitude / largest_of_dtype(release.subject)
        before = base.jumps
        after = jumps(release.subject, [(jump.layer, jump.token) for jump in before[1:]])
        stretch = after[0].norm / before[0].norm
        found = compare_activations(*scans, share, limits, stretch, largest.module)
        matched = compare_functions(before, after, limits) if scans[0].super_activations else []
        return [*found, *matched]

    checks: list[Check] = []
    if any(_is_gguf(side.subject) for side in (base, release)):
        # A GGUF file has no config.json; its conversion has.
        checks.append(compare_settings(*(side.subject.model.config.to_dict() for side in (base, release))))
    if ACTIVATIONS in depths:
        progress("comparing the activations")
        checks += _measured(ACTIVATIONS, activations)
    if QUALITY in depths:
        progress("comparing the predictions")
        checks += _measured(QUALITY, lambda: compare_quality(base, release, limits))
    return checks


def _is_gguf(subject: Subject) -> bool:
    try:
        return open_model(subject.entry).is_gguf
    except BadInput:
        return False  # pickled: it lies in a folder with a config.json


def _measured(depth: str, run: Callable[[], list[Check]]) -> list[Check]:
    """Return the checks of one depth; what stops it is damage only where the model itself is broken."""
    try:
        return run()
    except BrokenModel as error:
        return [broken(depth, "forward pass", f"the release cannot be measured: {error}")]
    except BadInput as error:
        return [cannot_judge(depth, "forward pass", f"the release cannot be measured here: {error}")]
    # What torch and its kernels raise where an operation, a type or memory is not to be had.
    except (RuntimeError, NotImplementedError, ImportError, MemoryError) as error:
        reason = one_line(error) or type(error).__name__
        return [cannot_judge(depth, "forward pass", f"the release's forward pass stopped: {reason}")]
