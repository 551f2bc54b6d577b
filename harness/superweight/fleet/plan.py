"""List what a fleet would run: its models, those of its searches, what each of them needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superweight.checkpoints.index_registry import also_reading
from superweight.checkpoints.model_ref import parse_model
from superweight.core.errors import BadInput
from superweight.fleet.fleet_file import Fleet
from superweight.fleet.job import REPORT, Job
from superweight.fleet.needs import Needs, Size, needs_of, size_of
from superweight.fleet.search import found


@dataclass(frozen=True)
class Item:
    """One model of a plan; ``refusal`` says why it cannot even be tried."""

    job: Job
    size: Size
    needs: Needs
    refusal: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what ``--plan --json`` writes."""
        return {
            "id": self.job.id,
            "model": self.job.model,
            "mode": self.job.mode,
            "base": self.job.base,
            "parameters": self.size.parameters,
            "stored_bytes": self.size.stored,
            "cpus": self.needs.cpus,
            "gpus": self.needs.gpus,
            "memory": self.needs.memory,
            "refusal": self.refusal,
        }


def planned(fleet: Fleet, *, has_gpus: bool = False) -> Iterator[Item]:
    """Yield every model of a fleet, those of searches last; a search asks the hub.

    Raises `BadInput` where the hub cannot be searched.
    """
    seen = set()
    with also_reading(fleet.registries):
        for job in fleet.jobs():
            seen.add(job.id)
            yield _item(job, fleet, has_gpus=has_gpus)
        for table in fleet.searches:
            for model, size in found(table):
                job = fleet.job(model, table)
                if job.id not in seen:
                    seen.add(job.id)
                    yield Item(job, size, needs_of(job, size, fleet.gpu_memory, cluster_has_gpus=has_gpus))


def _item(job: Job, fleet: Fleet, *, has_gpus: bool) -> Item:
    size, refusal = Size(), None
    if job.mode != REPORT:
        try:
            size = size_of(parse_model(job.model, Path(job.folder)).entry)
        except BadInput as error:
            refusal = " ".join(str(error).split())
    return Item(job, size, needs_of(job, size, fleet.gpu_memory, cluster_has_gpus=has_gpus), refusal)
