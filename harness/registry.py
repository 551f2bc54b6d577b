"""The models that are known: where their weights come from and what is published about them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from harness.coordinates import Coordinate
from harness.errors import BadInput
from harness.resources import fixtures_directory

STATUSES = ("supported", "refuted", "inconclusive", "not applicable")
TIERS = ("hermetic", "checkpoint", "gpu")


@dataclass(frozen=True)
class PublishedScalar:
    """A super weight somebody published; ``value`` keeps the digits it was published with."""

    coordinate: Coordinate
    value: Decimal | None = None

    def agrees_with(self, measured: float, relative_step: float) -> bool:
        """Tell whether ``measured`` equals the published value to the digits given.

        ``relative_step`` is the spacing of the loaded dtype: a bfloat16 build cannot hold
        more digits than it has.
        """
        if self.value is None:
            return True
        exponent = self.value.as_tuple().exponent
        assert isinstance(exponent, int), "the registry refuses NaN and infinity"
        half_digit = 0.5 * 10.0**exponent
        published = float(self.value)
        return abs(measured - published) <= max(half_digit, relative_step / 2 * abs(published))


@dataclass(frozen=True)
class PublishedActivation:
    """A super activation somebody published; unset fields were not stated."""

    channel: int
    onset: int | None = None
    token: int | None = None
    magnitude: float | None = None


@dataclass(frozen=True)
class ModelEntry:
    """One model: a name to select it by, its source, and what is expected of it.

    ``expect`` maps a claim ("C3") to the status that ``cited`` reports for it.
    ``tier`` says what a run needs: nothing ("hermetic"), real weights ("checkpoint"), or those
    and a GPU ("gpu").
    """

    name: str
    source: str
    tier: str = "checkpoint"
    member: str | None = None
    wheel_sha256: str | None = None
    member_sha256: str | None = None
    super_weights: tuple[PublishedScalar, ...] = ()
    super_activation: PublishedActivation | None = None
    cited: str | None = None
    effect: str | None = None
    caveat: str | None = None
    tuned_from: str | None = None
    expect: Mapping[str, str] = field(default_factory=dict)
    root: Path = Path()

    @property
    def coordinates(self) -> frozenset[Coordinate]:
        return frozenset(scalar.coordinate for scalar in self.super_weights)

    def expected(self, claim: str) -> str | None:
        """Return the status reported for a claim; to publish a place is to expect it (C1)."""
        published = bool(self.super_weights or self.super_activation)
        return self.expect.get(claim, "supported" if claim == "C1" and published else None)


Registry = Mapping[str, ModelEntry]


def load_registry(path: Path | None = None) -> Registry:
    """Read a registry file, by default the one that ships with the harness.

    Raises `BadInput` naming the file, the entry and the field that is wrong.
    """
    return _read(path or fixtures_directory() / "models.toml")


@cache
def _read(path: Path) -> Registry:
    try:
        # Decimals keep the digits a value was published with; see PublishedScalar.
        document = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"cannot read the model registry {path}: {error}") from error
    entries = {}
    for name, table in document.get("models", {}).items():
        try:
            entries[name] = _entry(name, dict(table), path.parent)
        except (BadInput, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{path}: model {name!r}: {error}") from error
    if not entries:
        raise BadInput(f"{path} lists no models; each is a table [models.NAME]")
    for entry in entries.values():
        if entry.tuned_from is not None and entry.tuned_from not in entries:
            raise BadInput(f"{path}: {entry.name!r} is tuned from unknown {entry.tuned_from!r}")
    return entries


def _entry(name: str, table: dict[str, Any], root: Path) -> ModelEntry:
    known = set(ModelEntry.__dataclass_fields__) - {"name", "root"} | {"values"}
    if unknown := set(table) - known:
        raise BadInput(f"unknown field {sorted(unknown)[0]!r}; known are {', '.join(sorted(known))}")
    values = table.pop("values", [])
    rows = table.pop("super_weights", [])
    if values and len(values) != len(rows):
        raise BadInput(f"{len(rows)} super_weights but {len(values)} values")
    scalars = tuple(_scalars(rows, values))
    if len({scalar.coordinate for scalar in scalars}) != len(scalars):
        raise BadInput("a super weight is listed twice")
    activation = table.pop("super_activation", None)
    if activation is not None:
        magnitude = activation.pop("magnitude", None)
        activation = PublishedActivation(
            **activation, magnitude=None if magnitude is None else float(magnitude)
        )
    entry = ModelEntry(
        name=name,
        source=table.pop("source", name),
        super_weights=scalars,
        super_activation=activation,
        root=root,
        **table,
    )
    if entry.tier not in TIERS:
        raise BadInput(f"tier {entry.tier!r} is none of {', '.join(TIERS)}")
    for claim, status in entry.expect.items():
        if status not in STATUSES:
            raise BadInput(f"expect.{claim} = {status!r} is none of {', '.join(STATUSES)}")
    return entry


def _scalars(rows: list[list[int]], values: list[Decimal]) -> Iterator[PublishedScalar]:
    for index, row in enumerate(rows):
        coordinate = Coordinate.of(*row)
        value = Decimal(values[index]) if values else None
        if value is not None and not value.is_finite():
            raise BadInput(f"value {value} of {coordinate} is not a finite number")
        yield PublishedScalar(coordinate, value)


def resolve(spec: str, registry: Registry | None = None) -> ModelEntry:
    """Turn what a person typed into an entry.

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
        return replace(registry[name], source=source, member=None, member_sha256=None, root=Path())
    return ModelEntry(name=spec, source=spec)
