"""Look at several prompts in one pass: in how many each scalar is found, and how its part varies.

A scalar that one prompt of nine shows belongs to that prompt, not to the model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from superweight.core.coordinates import Coordinate, GainCoordinate
from superweight.detection.detect import detect
from superweight.detection.findings import Detection
from superweight.detection.run_trace import trace_batch
from superweight.detection.scan import Scan
from superweight.model.subject import Subject

Place = Coordinate | GainCoordinate

# What is found in no more than this share of the prompts is not one of the model: of nine, in three.
OF_THE_MODEL = 1 / 3


@dataclass(frozen=True)
class Seen:
    """In how many of ``of`` prompts a scalar or gain is found, and the parts of the activation it makes."""

    prompts: int
    of: int
    least: float
    greatest: float

    @property
    def of_the_model(self) -> bool:
        return self.prompts > OF_THE_MODEL * self.of


@dataclass(frozen=True)
class Steadiness:
    """What the prompts show of each scalar and gain of a scan.

    ``elsewhere`` are scalars that other prompts have in their core and the scan does not.
    """

    prompts: int
    seen: Mapping[Place, Seen]
    elsewhere: Mapping[Coordinate, Seen]


def look_at_prompts(subject: Subject, found: Scan, texts: Collection[str]) -> Steadiness:
    """Trace all texts in one padded batch and look in each for what a scan found."""
    traces = trace_batch(subject, [subject.encode(text) for text in texts])
    return steadiness(found, [detect(trace) for trace in traces])


def steadiness(found: Scan, detections: Sequence[Detection]) -> Steadiness:
    """Return in how many detections each scalar and gain of a scan is found."""
    places: list[Place] = [*found.coordinates, *(gain.coordinate for gain in found.making_gains)]
    known = {*found.coordinates}
    cores = {place for detection in detections for place in detection.coordinates}
    only = {
        place: seen_in(
            place, [detection for detection in detections if place in detection.coordinates], len(detections)
        )
        for place in sorted(cores - known)
    }
    return Steadiness(
        len(detections), {place: seen_in(place, detections, len(detections)) for place in places}, only
    )


def seen_in(place: Place, detections: Iterable[Detection], of: int) -> Seen:
    """Return in how many of some detections one scalar or gain is found: in the core or beside it."""
    parts = []
    for detection in detections:
        shown: dict[Place, float] = {gain.coordinate: gain.part for gain in detection.gains if gain.makes}
        shown.update((place, part) for place, part in detection.parts.items())
        if place in shown:
            parts.append(shown[place])
    return Seen(len(parts), of, min(parts, default=0.0), max(parts, default=0.0))
