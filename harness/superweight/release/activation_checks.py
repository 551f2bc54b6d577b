"""Compare the super activations of two models, from one forward pass of each."""

from __future__ import annotations

from superweight.core.coordinates import Coordinate, GainCoordinate
from superweight.detection.detect import SuperActivation
from superweight.detection.scan import Scan
from superweight.release.limits import Limits
from superweight.release.result import ACTIVATIONS, Check, broken, joined, not_comparable, within


def compare_activations(
    base: Scan, release: Scan, head_room: float, limits: Limits, stretch: float = 1.0, where: str = ""
) -> list[Check]:
    """Return the checks of what the release's pass shows against the base's.

    ``head_room`` is the release's largest number over what its own dtype can hold, ``where`` the
    module that has it, ``stretch`` how many times the base's the median token's norm is.
    """
    checks = []
    known = {(item.channel, item.token): item for item in base.super_activations}
    found = {(item.channel, item.token): item for item in release.super_activations}
    for place, before in known.items():
        after = found.get(place)
        name = f"super activation on channel {before.channel}, token {before.token}"
        if after is None:
            checks.append(broken(ACTIVATIONS, name, f"the {name} is gone (it was {before.magnitude:.6g})"))
        else:
            checks.append(_activation(name, before, after, limits, stretch))
    new = [f"channel {channel}, token {token}" for channel, token in found if (channel, token) not in known]
    if new:
        checks.append(broken(ACTIVATIONS, "new super activations", f"new: super activation on {joined(new)}"))
    if not known and not new:
        checks.append(
            not_comparable(ACTIVATIONS, "super activations", "neither model has a super activation")
        )
    own = {gain.coordinate for gain in release.gains}
    gains = sorted({gain.coordinate for gain in base.making_gains} - own)
    lost: list[Coordinate | GainCoordinate] = sorted(set(base.coordinates) - set(release.coordinates))
    lost += gains
    if lost:
        checks.append(broken(ACTIVATIONS, "makers", f"{joined(lost)} no longer makes the super activation"))
    at = f", in {where}," if where else ""
    words = f"the largest activation{at} takes {head_room:.2%} of what the release's dtype can hold"
    checks.append(within(ACTIVATIONS, "head-room", words, head_room / limits.head_room, share=head_room))
    return checks


def _activation(
    name: str, before: SuperActivation, after: SuperActivation, limits: Limits, stretch: float
) -> Check:
    if before.onset != after.onset:
        return broken(
            ACTIVATIONS, name, f"the {name} begins in block {after.onset} instead of {before.onset}"
        )
    ratio = after.magnitude / before.magnitude / stretch
    figures = {
        "base": before.magnitude,
        "release": after.magnitude,
        "ratio": ratio,
        "onset": after.onset,
        "last": [before.last, after.last],
        "stretch": stretch,
    }
    if ratio <= 0:
        return broken(ACTIVATIONS, name, f"the {name} changed its sign", **figures)
    words = f"the {name} is {ratio:.4g} times the base's {before.magnitude:.6g}"
    words += f", the stream itself {stretch:.3g} times" if not 0.9 < stretch < 1.1 else ""
    return within(ACTIVATIONS, name, words, max(ratio, 1 / ratio) / limits.magnitude_ratio, **figures)
