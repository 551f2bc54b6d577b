"""Read the registry: where known models lie, and what is published about them."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from pathlib import Path

from superweight.checkpoints.published import (
    PublishedActivation,
    PublishedEffect,
    PublishedScalar,
    PublishedSet,
)
from superweight.checkpoints.registry_table import (
    ActivationTable,
    EffectTable,
    ModelTable,
    ReadingTable,
    one_of,
    read_table,
)
from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput
from superweight.core.resources import fixtures_directory

__all__ = [
    "ModelEntry",
    "PublishedActivation",
    "PublishedScalar",
    "Registry",
    "load_registry",
    "resolve",
    "shipped_registry",
]

STATUSES = ("supported", "refuted", "inconclusive", "not applicable")
TIERS = ("hermetic", "checkpoint", "gpu")
# Bytes of one parameter in each dtype that a checkpoint of the registry is stored in.
STORED = {"float32": 4, "bfloat16": 2, "float16": 2}
PRUNED = ("all", "each", "first")
# The fields of an entry that stand in its table as they are.
_TAKEN_OVER = (
    *("tier", "revision", "gated", "parameters", "stored_as", "member", "wheel_sha256", "member_sha256"),
    *("cited", "caveat", "tuned_from", "expect"),
)


@dataclass(frozen=True)
class ModelEntry:
    """One model: a name to select it by, its source, and what is expected of it.

    ``expect`` maps a claim ("C3") to the status that ``cited`` reports for it. ``undecided`` maps a claim
    that is expected to be inconclusive to the lowest and highest value of its statistic by processor: a run
    that decides it is held to them.
    ``tier`` says what a run needs: nothing ("hermetic"), real weights ("checkpoint"), or those
    and a GPU ("gpu"). ``other_readings`` are sets of super weights that conflict with
    ``super_weights``. ``parameters`` and ``stored_as`` (its dtype) tell the memory need.
    """

    name: str
    source: str
    tier: str = "checkpoint"
    revision: str | None = None
    gated: bool = False
    parameters: int | None = None
    stored_as: str | None = None
    member: str | None = None
    wheel_sha256: str | None = None
    member_sha256: str | None = None
    super_weights: tuple[PublishedScalar, ...] = ()
    super_activation: PublishedActivation | None = None
    cited: str | None = None
    effects: tuple[PublishedEffect, ...] = ()
    other_readings: tuple[PublishedSet, ...] = ()
    caveat: str | None = None
    tuned_from: str | None = None
    expect: Mapping[str, str] = field(default_factory=dict)
    undecided: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    root: Path = Path()

    @property
    def coordinates(self) -> frozenset[Coordinate]:
        return frozenset(scalar.coordinate for scalar in self.super_weights)

    @property
    def address(self) -> str:
        """The source, at the revision that is pinned if one is."""
        return self.source if self.revision is None else f"{self.source}@{self.revision}"

    @property
    def readings(self) -> tuple[PublishedSet, ...]:
        """Every published set of super weights, the one that is held to be right first."""
        own = PublishedSet(self.cited, self.super_weights)
        return ((own,) if self.super_weights else ()) + self.other_readings

    def weight_bytes(self, bytes_each: int | None = None) -> int | None:
        """Return what the weights take, as stored or at so many bytes each; None if unknown."""
        if bytes_each is None and self.stored_as is not None:
            bytes_each = STORED[self.stored_as]
        if self.parameters is None or bytes_each is None:
            return None
        return self.parameters * bytes_each

    def expected(self, claim: str) -> str | None:
        """Return the status reported for a claim; to publish a place is to expect it (C1)."""
        published = bool(self.super_weights or self.super_activation)
        return self.expect.get(claim, "supported" if claim == "C1" and published else None)


Registry = Mapping[str, ModelEntry]


# What the run reads beside the shipped registry, united with it: the last counts. Only
# `superweight.checkpoints.index_registry.also_reading` changes it.
united: list[Registry] = []


def load_registry(path: Path | None = None) -> Registry:
    """Read a registry file, by default the one that ships with the harness and what a run adds to it.

    Raises `BadInput` naming the file, the entry and the field that is wrong.
    """
    if path is None and united:
        return united[-1]
    return shipped_registry() if path is None else _read(path)


def shipped_registry() -> Registry:
    """Read the registry that ships with the harness, without what a run adds to it."""
    return _read(fixtures_directory() / "models.toml")


@cache
def _read(path: Path) -> Registry:
    try:
        # Decimals keep the digits a value was published with; see PublishedScalar.
        document = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"cannot read the model registry {path}: {error}") from error
    tables = document.get("models", {})
    entries = {}
    for name, table in tables.items() if isinstance(tables, dict) else ():
        try:
            entries[name] = _entry(name, read_table(table), path.parent)
        except (BadInput, ValueError) as error:
            raise BadInput(f"{path}: model {name!r}: {error}") from error
    if not entries:
        raise BadInput(f"{path} lists no models; each is a table [models.NAME]")
    for entry in entries.values():
        if entry.tuned_from is not None and entry.tuned_from not in entries:
            raise BadInput(f"{path}: {entry.name!r} is tuned from unknown {entry.tuned_from!r}")
    return entries


def _entry(name: str, table: ModelTable, root: Path) -> ModelEntry:
    one_of("tier", table.tier, TIERS)
    one_of("stored_as", table.stored_as, STORED)
    for claim, status in table.expect.items():
        one_of(f"expect.{claim}", status, STATUSES)
    for claim, (low, high) in table.undecided.items():
        if table.expect.get(claim) != "inconclusive":
            raise BadInput(f"undecided.{claim} is given, and expect.{claim} is not inconclusive")
        if not -math.inf < low <= high < math.inf:
            raise BadInput(f"undecided.{claim} is [{low}, {high}], not a lowest and a highest value")
    source = table.source or name
    if table.revision is not None and "@" in source:
        raise BadInput("a revision is given twice, in revision and in source")
    same = {item: getattr(table, item) for item in _TAKEN_OVER}
    return ModelEntry(
        name=name,
        source=source,
        super_weights=_scalars(table),
        super_activation=_activation(table.super_activation),
        effects=tuple(map(_effect, table.effects)),
        other_readings=tuple(map(_reading, table.other_readings)),
        undecided={claim: (float(low), float(high)) for claim, (low, high) in table.undecided.items()},
        root=root,
        **same,
    )


def _scalars(table: ModelTable | ReadingTable) -> tuple[PublishedScalar, ...]:
    one_of("values_read_as", table.values_read_as, STORED)
    rows, values = table.super_weights, table.values
    if values and len(values) != len(rows):
        raise BadInput(f"{len(rows)} super_weights but {len(values)} values")
    scalars = []
    for index, row in enumerate(rows):
        coordinate = Coordinate.of(*row)
        value = Decimal(values[index]) if values else None
        if value is not None and not value.is_finite():
            raise BadInput(f"value {value} of {coordinate} is not a finite number")
        scalars.append(PublishedScalar(coordinate, value, table.values_read_as))
    if len({scalar.coordinate for scalar in scalars}) != len(scalars):
        raise BadInput("a super weight is listed twice")
    return tuple(scalars)


def _activation(table: ActivationTable | None) -> PublishedActivation | None:
    if table is None:
        return None
    if table.channel is None and table.onset is None:
        raise BadInput("a super_activation names neither channel nor onset")
    magnitude = None if table.magnitude is None else float(table.magnitude)
    return PublishedActivation(table.channel, table.onset, table.token, magnitude)


def _reading(table: ReadingTable) -> PublishedSet:
    scalars = _scalars(table)
    if not scalars:
        raise BadInput("one of other_readings lists no super_weights")
    return PublishedSet(table.cited, scalars, table.note)


def _effect(table: EffectTable) -> PublishedEffect:
    ratios = [float(ratio) for ratio in table.ratio]
    # A ratio may be infinite where the pruned model overflows; NaN is no finding.
    if not ratios or not all(ratio > 0 for ratio in ratios):
        raise BadInput(f"ratio {ratios} is no list of perplexities after over before")
    one_of("pruned", table.pruned, PRUNED)
    return PublishedEffect(table.pruned, min(ratios), max(ratios), table.text, table.by)


def resolve(spec: str, registry: Registry | None = None) -> ModelEntry:
    """Return the entry that a name, as a person types it, stands for.

    ``spec`` is a registry name, ``NAME=SOURCE`` (a registry entry whose weights lie elsewhere),
    or a source itself, about which nothing is published.
    """
    registry = load_registry() if registry is None else registry
    if spec in registry:
        return registry[spec]
    name, separator, source = spec.partition("=")
    # "wheel:project==1.0" holds an equals sign and names no registry entry.
    if separator and name in registry:
        if not source:
            raise BadInput(f"{spec!r}: give a directory, a .gguf file or a hub id after the '='")
        return replace(
            registry[name], source=source, revision=None, member=None, member_sha256=None, root=Path()
        )
    return ModelEntry(name=spec, source=spec)
