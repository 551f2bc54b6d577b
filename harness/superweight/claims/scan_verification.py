"""Hold what is published of a model to a scan that brings its first blocks alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from superweight.checkpoints.registry import ModelEntry
from superweight.checkpoints.verify import AGREES, DISAGREES, NOTHING, UNREACHABLE
from superweight.claims.paper.location import differences
from superweight.core.errors import HarnessError
from superweight.detection.scan import Scan, scan
from superweight.detection.stopping_rule import Until
from superweight.measurement.corpus import default_prompt
from superweight.model.stream_plan import Cost, costing
from superweight.model.streamed_model import streamed


@dataclass(frozen=True)
class ScanVerification:
    """What a scan of one model says of what is published; ``reason`` says why there was none.

    ``differences`` are those of claim C1: none where the published set is found.
    """

    model: str
    status: str
    found: Scan | None = None
    cost: Cost | None = None
    differences: tuple[str, ...] = field(default=())
    reason: str | None = None

    def lines(self) -> list[str]:
        """Return what a person reads: the finding, how it differs, and what it took."""
        if self.found is None or self.cost is None:
            return [f"{self.model}: {self.status}: {self.reason}"]
        places = ", ".join(map(str, self.found.coordinates)) or "no super weight"
        depth = f", {'provisional: ' if self.found.provisional else ''}{self.found.depth}"
        lines = [f"{self.model}: {self.status}: a scan finds {places}{depth}"]
        return [*lines, *(f"  {item}" for item in self.differences), f"  {self.cost.line}"]

    def as_dict(self) -> dict[str, Any]:
        found, cost = self.found, self.cost
        return {
            "model": self.model,
            "status": self.status,
            "reason": self.reason,
            "super_weights": None if found is None else [list(place.indices) for place in found.coordinates],
            "provisional": None if found is None else found.provisional,
            "differences": list(self.differences),
            "cost": None if cost is None else cost.as_dict(),
        }


def verify_by_scan(entry: ModelEntry) -> ScanVerification:
    """Scan a model where its files are, block by block, and hold what is published to what is found.

    Files that cannot be had, and models that are not run block by block, are a finding too: nothing is
    raised for them.
    """
    try:
        with (
            streamed(entry) as opened,
            costing(opened.stream, opened.checkpoint) as cost,
        ):
            found = scan(opened.subject, default_prompt(), Until())
            apart = tuple(differences(opened.subject, found))
    except HarnessError as error:
        return ScanVerification(entry.name, UNREACHABLE, reason=str(error))
    published = bool(entry.super_weights or entry.super_activation)
    status = NOTHING if not published else DISAGREES if apart else AGREES
    return ScanVerification(entry.name, status, found, cost, apart if published else ())
