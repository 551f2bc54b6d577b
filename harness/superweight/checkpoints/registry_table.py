"""Define the tables of a registry file: their fields and types."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from typing import Annotated, Any

import msgspec

from superweight.core.errors import BadInput

# TOML writes 3 and 3.0 for the same number; a number with a point keeps its digits.
Number = int | Decimal
Text = str | None
Index = Annotated[int, msgspec.Meta(ge=0)] | None


class _Table(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What every table is: a field that is not listed is a mistake, and named."""


class ActivationTable(_Table):
    """``super_activation``: fields that are left out were not stated."""

    channel: Index = None
    onset: Index = None
    token: Index = None
    magnitude: Number | None = None


class EffectTable(_Table):
    """One of ``effects``: perplexity after over before pruning."""

    pruned: str
    ratio: list[Number]
    text: str
    by: str


class ReadingTable(_Table):
    """One of ``other_readings``: a set of super weights that conflicts with the entry's own."""

    cited: str
    super_weights: list[list[int]] = []
    values: list[Number] = []
    values_read_as: Text = None
    note: Text = None


class ModelTable(_Table):
    """``[models.NAME]``; `superweight.checkpoints.registry.ModelEntry` says what each field means."""

    source: Text = None
    tier: str = "checkpoint"
    revision: Text = None
    gated: bool = False
    parameters: Annotated[int, msgspec.Meta(ge=1)] | None = None
    stored_as: Text = None
    member: Text = None
    wheel_sha256: Text = None
    member_sha256: Text = None
    super_weights: list[list[int]] = []
    values: list[Number] = []
    values_read_as: Text = None
    super_activation: ActivationTable | None = None
    cited: Text = None
    effects: list[EffectTable] = []
    other_readings: list[ReadingTable] = []
    caveat: Text = None
    tuned_from: Text = None
    expect: dict[str, str] = {}
    undecided: dict[str, tuple[Number, Number]] = {}


def read_table(table: Any) -> ModelTable:
    """Check the fields and types of one model's table.

    Raises `BadInput` that names the field, as msgspec does: "Expected `int`, got `str` - at
    `$.parameters`".
    """
    try:
        return msgspec.convert(table, ModelTable, builtin_types=(Decimal,))
    except msgspec.ValidationError as error:
        raise BadInput(str(error).replace("`$.", "`")) from error


def one_of(field: str, value: str | None, allowed: Collection[str]) -> None:
    """Raise `BadInput`, with all that is allowed, for a value that is none of it."""
    if value is not None and value not in allowed:
        raise BadInput(f"{field} {value!r} is none of {', '.join(allowed)}")
