"""Hand every model of a fleet to Ray, a task each, and gather the rows as they come."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from superweight import __version__
from superweight.core.errors import BadInput
from superweight.core.reason import reason
from superweight.fleet import plan
from superweight.fleet.cluster import Nodes, answering, cluster
from superweight.fleet.fleet_file import Fleet, read_fleet
from superweight.fleet.index import begin, finish
from superweight.fleet.job import Job
from superweight.fleet.row import (
    AS_EXPECTED,
    CANNOT_JUDGE,
    CRASHED,
    NOT_AS_EXPECTED,
    Row,
    decoded,
    encoded,
    now,
)
from superweight.fleet.storage import Storage
from superweight.fleet.task import keep, perform

# How often Ray starts the task of a model again whose worker or node was lost.
RETRIES = 5
# Beyond what runs, so many tasks wait at Ray: enough to keep it busy, few enough to keep memory flat.
_WAITING = 4
_LOOK_EVERY = 10.0


@dataclass(frozen=True)
class Counts:
    """How far a fleet is: models by their status, those that were done before, and what is left.

    ``left`` is in seconds, None before anything can be said; ``total`` is None while it is not known.
    """

    total: int | None = None
    running: int = 0
    reused: int = 0
    by_status: Mapping[str, int] = field(default_factory=dict)
    left: float | None = None

    @property
    def done(self) -> int:
        """How many models have a row."""
        return sum(self.by_status.values())

    @property
    def failed(self) -> int:
        """How many of them are anything but as expected."""
        return self.done - self.by_status.get(AS_EXPECTED, 0)


class _Tally:
    """Count the models of a run as their rows come, and say how far it is."""

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.reused = 0
        self.by_status: Counter[str] = Counter()
        self._begun = time.monotonic()

    @property
    def done(self) -> int:
        return sum(self.by_status.values())

    def add(self, row: Row, *, reused: bool) -> None:
        self.by_status[row.status] += 1
        self.reused += reused

    def counts(self, running: int) -> Counts:
        return Counts(self.total, running, self.reused, dict(self.by_status), self._left())

    def _left(self) -> float | None:
        """Return how long the rest takes at the pace so far, without what was done before."""
        worked = self.done - self.reused
        if not worked or self.total is None:
            return None
        return (time.monotonic() - self._begun) / worked * max(0, self.total - self.done)


@dataclass(frozen=True)
class Result:
    """What came of a fleet: how many models of each status, how many were done before, what changed."""

    counts: Mapping[str, int]
    reused: int
    changed: int
    out: str

    @property
    def as_expected(self) -> bool:
        """Whether every model was judged, and is as expected."""
        return not any(count for status, count in self.counts.items() if status != AS_EXPECTED)

    @property
    def exit_code(self) -> int:
        """0: all as expected; 1: some not; 3: some could not be judged, and none is not as expected."""
        if self.counts.get(NOT_AS_EXPECTED):
            return 1
        return 0 if self.as_expected else 3


def run(
    fleet: Fleet | str | Path,
    out: str | Path,
    *,
    address: str | None = None,
    cpus: int | None = None,
    progress: Callable[[Counts], None] = lambda counts: None,
) -> Result:
    """Run every model of a fleet that is not done yet, and write the index of all of them.

    ``fleet`` is a fleet.toml or what `read_fleet` made of one; ``out`` a folder, or any address that
    fsspec can write to and all nodes reach. ``address`` names a Ray cluster; without one, Ray is started
    on this machine, with ``cpus`` cores or all of them. Raises `BadInput` for a fleet, an address or an
    ``out`` that cannot be used; what goes wrong with a model is its row.
    """
    if not isinstance(fleet, Fleet):
        fleet = read_fleet(Path(fleet))
    out = str(out) if "://" in str(out) else str(Path(out).absolute())
    storage = Storage(out)
    with cluster(address, cpus), answering(address), _spool() as spool:
        begin(storage)
        tally = _Tally(None if fleet.searches else sum(1 for _ in fleet.jobs()))
        nodes = Nodes()
        items = plan.planned(fleet, has_gpus=nodes.has_gpus)
        for row, reused in _rows(items, out, nodes, tally, progress, storage):
            tally.add(row, reused=reused)
            spool.write(encoded(row) + b"\n")
        progress(tally.counts(0))
        spool.flush()
        changed = finish(storage, lambda: _spooled(spool))
    return Result(dict(tally.by_status), tally.reused, changed, out)


@contextmanager
def _spool() -> Iterator[IO[bytes]]:
    """Give a file for the rows of a run: a list of them would grow with the fleet."""
    with tempfile.TemporaryFile(prefix="superweight-rows-") as file:
        yield file


def _spooled(file: IO[bytes]) -> Iterator[Row]:
    file.seek(0)
    for line in file:
        yield decoded(line)


def _rows(
    items: Iterable[plan.Item],
    out: str,
    nodes: Nodes,
    tally: _Tally,
    progress: Callable[[Counts], None],
    storage: Storage,
) -> Iterator[tuple[Row, bool]]:
    """Yield the row of every model, and whether it was done before, in the order in which they end."""
    import ray

    task = ray.remote(perform)
    waiting: dict[Any, Job] = {}
    left = iter(items)
    looked = time.monotonic()
    more = True
    while more or waiting:
        while more and len(waiting) < max(_WAITING * nodes.cores, 16):
            item = next(left, None)
            if item is None:
                more = False
                tally.total = tally.done + len(waiting)
                break
            if (refusal := _refusal(item, nodes)) is not None:
                yield keep(storage, refusal, {}), False
                continue
            needs = item.needs
            asked = task.options(
                num_cpus=needs.cpus,
                num_gpus=needs.gpus,
                memory=needs.memory or None,
                max_retries=RETRIES,
                retry_exceptions=False,
                name=item.job.id,
            )
            waiting[asked.remote(item.job, out)] = item.job
        if not waiting:
            continue
        ended, _ = ray.wait(list(waiting), num_returns=1, timeout=1.0)
        for ref in ended:
            yield _ended(ref, waiting.pop(ref), storage)
        progress(tally.counts(min(len(waiting), int(nodes.cores) or 1)))
        if time.monotonic() - looked > _LOOK_EVERY:
            nodes.look()
            looked = time.monotonic()


def _refusal(item: plan.Item, nodes: Nodes) -> Row | None:
    """Return the row of a model that no node can ever hold: Ray would let it wait for ever."""
    row = Row(
        item.job.id,
        item.job.model,
        item.job.mode,
        CANNOT_JUDGE,
        "",
        item.job.base,
        version=__version__,
        finished=now(),
    )
    if item.refusal is not None:
        return replace(row, reason=item.refusal)
    if any(item.needs.fits(node) for node in nodes.resources):
        return None
    nodes.look()
    if any(item.needs.fits(node) for node in nodes.resources):
        return None
    largest = max((node.get("memory", 0.0) for node in nodes.resources), default=0.0)
    return replace(
        row,
        reason=f"it needs {item.needs} on one node, and no node of the cluster has that; the largest has "
        f"{largest / 1e9:.3g} GB of memory",
    )


def _ended(ref: Any, job: Job, storage: Storage) -> tuple[Row, bool]:
    """Return what a task returned, or the row of a model whose task did not return."""
    import ray

    try:
        row, reused = ray.get(ref)
        return row, reused
    except ray.exceptions.RayTaskError as error:
        # What `perform` raises is a place that cannot be written: of that the whole run dies.
        cause = error.cause
        if isinstance(cause, BadInput):
            raise cause from None
        why = f"its task raised {reason(cause)}"
    except ray.exceptions.OutOfMemoryError:
        why = "its node ran out of memory"
    except ray.exceptions.RayError as error:
        why = f"its worker or node was lost {RETRIES + 1} times: {reason(error)}"
    row = Row(job.id, job.model, job.mode, CRASHED, why, job.base, version=__version__, finished=now())
    return keep(storage, row, {}), False
