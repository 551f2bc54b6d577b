"""C1: the super activation sits at a known block and channel, and known scalars make it."""

from __future__ import annotations

from harness.claims.verdict import AT_LEAST, AT_MOST, Claim, Verdict, counted, judged, not_applicable
from harness.evidence import Evidence
from harness.loading import Subject
from harness.registry import ModelEntry
from harness.scanning import Scan

CLAIM = Claim(
    "C1",
    "The super activation sits at a known block and channel, and known scalars make it.",
    "section 3.1, Figures 3 and 4, Table 2",
)


def judge(evidence: Evidence) -> Verdict:
    """Compare what is found with what is published; any difference refutes.

    Where nothing is published, the claim is that there is a super activation at all. A published
    value is held to the digits it was published with.
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
    differences = [*_activation_differences(entry, found), *_differences(evidence.subject, found)]
    return judged(
        CLAIM,
        counted("number of differences from what is published", len(differences), 0, AT_MOST),
        differences=differences,
        **_found(found),
    )


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
        "stop_reason": found.stop_reason,
        "passes": found.passes,
    }


def _activation_differences(entry: ModelEntry, found: Scan) -> list[str]:
    known, activation = entry.super_activation, found.strongest
    if known is None:
        return []
    if activation is None:
        return [f"published: a super activation on channel {known.channel}; found: none"]
    compared = {
        "channel": (known.channel, activation.channel),
        "onset block": (known.onset, activation.onset),
        "token": (known.token, activation.token),
    }
    return [
        f"{what} of the super activation: published {was}, found {now}"
        for what, (was, now) in compared.items()
        if was is not None and was != now
    ]


def _differences(subject: Subject, found: Scan) -> list[str]:
    published = {scalar.coordinate: scalar for scalar in subject.entry.super_weights}
    if not published:
        return []
    detected = {weight.coordinate: weight for weight in found.super_weights}
    missing = [f"{place} is published but not found" for place in sorted(published.keys() - detected.keys())]
    extra = [f"{place} is found but not published" for place in sorted(detected.keys() - published.keys())]
    values = [
        f"value of {place}: published {published[place].value}, found {detected[place].value!r}"
        for place in sorted(published.keys() & detected.keys())
        if not published[place].agrees_with(detected[place].value, subject.relative_step)
    ]
    return missing + extra + values
