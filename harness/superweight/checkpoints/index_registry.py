"""Read registries beside the shipped one: the index.json of a fleet, or another models.toml."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import msgspec

from superweight.checkpoints import registry
from superweight.checkpoints.published import (
    PublishedActivation,
    PublishedEffect,
    PublishedScalar,
    PublishedSet,
)
from superweight.checkpoints.registry import STATUSES, STORED, ModelEntry, Registry, load_registry
from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput
from superweight.core.reason import reason

# A verdict that was not decided is nothing to hold another run to.
_EXPECTED = tuple(status for status in STATUSES if status != "inconclusive")
_KEPT = "as expected"


class _Place(msgspec.Struct):
    at: str
    value: float


class _Activation(msgspec.Struct):
    channel: int
    token: int
    onset: int
    magnitude: float | None = None


class _Carried(msgspec.Struct):
    ratio: float


class _Row(msgspec.Struct):
    """What a registry takes of one row; an index says more."""

    model: str
    status: str
    finished: str = ""
    parameters: int | None = None
    dtype: str | None = None
    corpus: str | None = None
    super_weights: list[_Place] = []
    activation: _Activation | None = None
    carried: _Carried | None = None
    claims: dict[str, str] = {}


class _Index(msgspec.Struct):
    models: list[_Row]


@contextmanager
def also_reading(sources: Sequence[str]) -> Iterator[None]:
    """Add registries, each a file or an address, to the shipped one for the length of a ``with`` block.

    Where two say different things of a model, both are kept side by side. Raises `BadInput`.
    """
    if not sources:
        yield
        return
    whole = load_registry()
    for source in sources:
        whole = unite(whole, read_registry(source), source)
    registry.united.append(whole)
    try:
        yield
    finally:
        registry.united.remove(whole)


def read_registry(source: str) -> Registry:
    """Read a models.toml, or the index.json of a fleet, from a file or an address.

    Raises `BadInput` in one line naming the source.
    """
    if source.endswith(".toml") and "://" not in source:
        return load_registry(Path(source))
    data = read_whole(source)
    try:
        return entries_of(msgspec.json.decode(data, type=_Index).models, source)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, BadInput) as error:
        raise BadInput(
            f"{source} is no index.json of superweight fleet, nor a models.toml: {reason(error)}"
        ) from error


def read_whole(source: str) -> bytes:
    """Return what a file or an address holds. Raises `BadInput` where it cannot be read."""
    try:
        if "://" not in source:
            return Path(source).read_bytes()
        import fsspec

        with fsspec.open(source, "rb") as file:
            return bytes(file.read())
    # Each protocol raises what its own library raises.
    except Exception as error:
        raise BadInput(f"cannot read the index {source}: {reason(error)}") from error


def entries_of(rows: Sequence[_Row], source: str) -> Registry:
    """Return an entry for every model that was judged as expected: damage is nothing to expect.

    Of several rows of one model the one that was finished last counts.
    """
    found: dict[str, ModelEntry] = {}
    for row in sorted(rows, key=lambda row: row.finished):
        if row.status == _KEPT and (row.super_weights or row.activation or row.claims):
            found[row.model] = _entry(row, f"measured ({source}, {row.finished[:10]})")
    return found


def _entry(row: _Row, cited: str) -> ModelEntry:
    read_as = row.dtype if row.dtype in STORED else None
    scalars = tuple(
        PublishedScalar(Coordinate.parse(place.at), Decimal(repr(place.value)), read_as)
        for place in row.super_weights
    )
    activation = None
    if (found := row.activation) is not None:
        activation = PublishedActivation(found.channel, found.onset, found.token, found.magnitude)
    effects: tuple[PublishedEffect, ...] = ()
    if row.carried is not None and row.super_weights and math.isfinite(row.carried.ratio):
        ratio = row.carried.ratio
        effects = (PublishedEffect("all", ratio, ratio, row.corpus or "builtin", cited),)
    return ModelEntry(
        name=row.model,
        source=row.model,
        parameters=row.parameters,
        super_weights=scalars,
        super_activation=activation,
        cited=cited,
        effects=effects,
        expect={claim: status for claim, status in row.claims.items() if status in _EXPECTED},
    )


def unite(first: Registry, second: Registry, source: str) -> Registry:
    """Return both registries as one; what the first says of a model comes first.

    A set of super weights that it does not have stands beside its own, as a further reading.
    """
    both = dict(first)
    for name, entry in second.items():
        both[name] = _united(both[name], entry, source) if name in both else entry
    return both


def _united(own: ModelEntry, other: ModelEntry, source: str) -> ModelEntry:
    if not own.readings and not own.expect:
        return replace(
            own,
            cited=own.cited or other.cited,
            super_weights=other.super_weights,
            other_readings=other.other_readings,
            super_activation=own.super_activation or other.super_activation,
            effects=own.effects + other.effects,
            expect=other.expect,
            undecided=other.undecided,
            parameters=own.parameters or other.parameters,
        )
    known = {reading.coordinates for reading in own.readings}
    cited = other.cited or source
    further = tuple(
        PublishedSet(reading.cited or cited, reading.super_weights, reading.note)
        for reading in other.readings
        if reading.coordinates not in known
    )
    effects = tuple(effect for effect in other.effects if effect not in own.effects)
    return replace(
        own,
        other_readings=own.other_readings + further,
        effects=own.effects + effects,
        expect={**other.expect, **own.expect} if not further else own.expect,
        # Of a claim whose status is the own one, the range is too.
        undecided={**({} if further else _beyond(other, own)), **own.undecided},
        parameters=own.parameters or other.parameters,
    )


def _beyond(other: ModelEntry, own: ModelEntry) -> dict[str, tuple[float, float]]:
    return {claim: ends for claim, ends in other.undecided.items() if claim not in own.expect}
