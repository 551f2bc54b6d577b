"""C1: the super activation sits at a known block and channel, and known scalars make it."""

from __future__ import annotations

from superweight.checkpoints.agreement import SetAgreement, compare_sets, nearest
from superweight.checkpoints.registry import ModelEntry
from superweight.claims.evidence import Evidence
from superweight.claims.verdict import AT_LEAST, AT_MOST, Claim, Verdict, counted, judged, not_applicable
from superweight.detection.scan import Scan
from superweight.model.subject import Subject

CLAIM = Claim(
    "C1",
    "The super activation sits at a known block and channel, and known scalars make it.",
    "section 3.1, Figures 3 and 4, Table 2",
)

# The paper's magnitudes differ by 5 to 30 % from prompt to prompt.
MAGNITUDE_VARIES = 0.3


def judge(evidence: Evidence) -> Verdict:
    """Compare what is found with what is published; any difference refutes.

    Where nothing is published, the claim is that there is a super activation at all. A published
    value is held to the digits it was published with, a published magnitude to `MAGNITUDE_VARIES`.
    Where published sets conflict, the one that fits best counts, and the evidence names it.
    """
    found, entry = evidence.scan, evidence.subject.entry
    published = bool(entry.super_weights or entry.super_activation)
    if not published and found.strongest is None:
        return not_applicable(CLAIM, "no super activation is published for this model and none is found")
    if not published:
        return judged(
            CLAIM,
            counted("number of super activations", len(found.super_activations), 1, AT_LEAST),
            **_found(found),
        )
    held = published_agreement(evidence.subject, found)
    apart = differences(evidence.subject, found)
    return judged(
        CLAIM,
        counted("number of differences from what is published", len(apart), 0, AT_MOST),
        differences=apart,
        **_found(found),
        **({"readings": [str(each) for each in held]} if entry.other_readings else {}),
    )


def differences(subject: Subject, found: Scan) -> list[str]:
    """Return how what was found differs from what is published of a model, a line each."""
    entry = subject.entry
    apart = _activation_differences(entry, found)
    if entry.super_weights:
        apart += nearest(published_agreement(subject, found)).differences
    return apart


def published_agreement(subject: Subject, found: Scan) -> tuple[SetAgreement, ...]:
    """Hold every published set of super weights to what a scan of the subject found."""
    values = {weight.coordinate: weight.value for weight in found.super_weights}
    return compare_sets(subject.entry.readings, values, subject.relative_step)


def _found(found: Scan) -> dict[str, object]:
    return {
        "super_weights": [
            # The scalar is stored, not computed: it is compared to the last bit.
            {
                "at": str(weight.coordinate),
                "value": repr(weight.value),
                "rank": found.ranks[weight.coordinate],
            }
            for weight in found.super_weights
        ],
        "super_activations": [
            {"channel": item.channel, "token": item.token, "onset": item.onset, "last": item.last}
            for item in found.super_activations
        ],
        "cancellers": [str(canceller.coordinate) for canceller in found.cancellers],
        # Only where there are some: most models have no norm behind the MLP.
        **({"gains": _gains(found)} if found.making_gains else {}),
        "stop_reason": found.stop_reason,
        "passes": found.passes,
    }


def _gains(found: Scan) -> list[dict[str, object]]:
    return [{"at": str(gain.coordinate), "rank": gain.rank} for gain in found.making_gains]


def _activation_differences(entry: ModelEntry, found: Scan) -> list[str]:
    known, activation = entry.super_activation, found.strongest
    if known is None:
        return []
    if activation is None:
        where = "" if known.channel is None else f" on channel {known.channel}"
        return [f"published: a super activation{where}; found: none"]
    compared = {
        "channel": (known.channel, activation.channel),
        "onset block": (known.onset, activation.onset),
        "token": (known.token, activation.token),
    }
    apart = [
        f"{what} of the super activation: published {was}, found {now}"
        for what, (was, now) in compared.items()
        if was is not None and was != now
    ]
    magnitude = abs(activation.magnitude)
    if known.magnitude is not None and abs(magnitude / known.magnitude - 1) > MAGNITUDE_VARIES:
        apart.append(f"magnitude of the super activation: published {known.magnitude:g}, found {magnitude:g}")
    return apart
