"""Define what a figure draws, apart from how it is drawn: curves, bars, labelled points, its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from superweight.core.readable import readable

# The conditions that every figure tells apart, by the same colour and marker throughout.
INTACT, PRUNED = "intact", "pruned"


@dataclass(frozen=True)
class Curve:
    """Points of one condition; ``low`` and ``high`` bound its interval where there is one."""

    condition: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Mark:
    """A point that is singled out, with the words beside it."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Panel:
    """One pair of axes. Where ``categories`` are given, they are bars: x counts along them."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    marks: tuple[Mark, ...] = ()
    categories: tuple[str, ...] = ()
    logarithmic: bool = False
    # A level that values are read against, such as "no change".
    level: float | None = None


@dataclass(frozen=True)
class Chart:
    """A figure: its panels, its text alternative, and the table of the numbers it draws."""

    key: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def number(value: float) -> str:
    """Write a number for a person: four digits, and no power of ten."""
    return readable(value)


def numbered(values: Sequence[object]) -> tuple[float, ...]:
    """Return the places 0, 1, 2, ... of values along an axis."""
    return tuple(float(place) for place in range(len(values)))


def brief(label: str, most: int = 28) -> str:
    """Cut a label to what fits beside an axis; the table has all of it."""
    return label if len(label) <= most else f"{label[: most - 1]}…"


def visible(token: str) -> str:
    """Write a token so that every character of it can be seen: a space as ␣, a line end as ↵."""
    shown = token.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
    return "".join(character if character.isprintable() else f"U+{ord(character):04X}" for character in shown)
