"""Name a scalar as the paper does: (layer, row, col), zero-based, with the expert where there are some."""

from __future__ import annotations

from dataclasses import dataclass
from functools import total_ordering

from superweight.core.errors import BadInput


@total_ordering
@dataclass(frozen=True)
class Coordinate:
    """One scalar of one MLP output projection, as Table 2 of the paper writes it.

    ``row`` is the residual (output) channel and ``col`` the intermediate (input) neuron,
    whatever way round the checkpoint stores its matrix. ``expert`` numbers a routed expert of a
    mixture-of-experts block (the "super experts" of arXiv 2507.23279); it is None for the one
    projection of a dense block, and for shared experts, which every token passes.
    """

    layer: int
    row: int
    col: int
    expert: int | None = None

    def __post_init__(self) -> None:
        if min(self.indices) < 0:
            raise BadInput(f"coordinate {self} has a negative index; indices start at 0")

    @property
    def indices(self) -> tuple[int, ...]:
        """(layer, row, col), or (layer, expert, row, col)."""
        if self.expert is None:
            return self.layer, self.row, self.col
        return self.layer, self.expert, self.row, self.col

    def __lt__(self, other: Coordinate) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[int, int, int, int]:
        # Dense and shared projections stand before the routed experts of their block.
        return self.layer, -1 if self.expert is None else self.expert, self.row, self.col

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.indices))}]"

    @classmethod
    def of(cls, *indices: int) -> Coordinate:
        """Make a coordinate of (layer, row, col) or (layer, expert, row, col)."""
        if len(indices) == 3:
            return cls(*indices)
        layer, expert, row, col = indices
        return cls(layer, row, col, expert)

    @classmethod
    def parse(cls, text: str) -> Coordinate:
        """Read ``LAYER,ROW,COL`` or ``LAYER,EXPERT,ROW,COL``; raises `BadInput` for anything else."""
        try:
            return cls.of(*(int(part) for part in text.strip("[] ").split(",")))
        except (ValueError, TypeError):
            raise BadInput(
                f"{text!r} is not a coordinate; write LAYER,ROW,COL, for example 11,507,1229 "
                "(LAYER,EXPERT,ROW,COL in a mixture of experts)"
            ) from None


@dataclass(frozen=True, order=True)
class GainCoordinate:
    """One scalar of a norm, or layer scale, that stands between a block's MLP and the residual stream.

    ``norm`` is its path within the block ("post_feedforward_layernorm"), ``channel`` the residual
    channel: written [layer, norm, channel].
    """

    layer: int
    norm: str
    channel: int

    def __post_init__(self) -> None:
        if min(self.layer, self.channel) < 0:
            raise BadInput(f"coordinate {self} has a negative index; indices start at 0")

    @property
    def indices(self) -> tuple[int | str, ...]:
        """(layer, norm, channel)."""
        return self.layer, self.norm, self.channel

    def __str__(self) -> str:
        return f"[{self.layer}, {self.norm}, {self.channel}]"

    @classmethod
    def parse(cls, text: str) -> GainCoordinate:
        """Read ``LAYER,NORM,CHANNEL``; raises `BadInput` for anything else."""
        try:
            layer, norm, channel = (part.strip() for part in text.strip("[] ").split(","))
            return cls(int(layer), norm, int(channel))
        except ValueError:
            raise BadInput(
                f"{text!r} is not the coordinate of a gain; write LAYER,NORM,CHANNEL, for example "
                "5,post_feedforward_layernorm,163"
            ) from None


def parse_place(text: str) -> Coordinate | GainCoordinate:
    """Read the coordinate of a weight or, where its second part is a name, of a gain; see `BadInput`."""
    parts = text.strip("[] ").split(",")
    named = len(parts) == 3 and not parts[1].strip().lstrip("+-").isdigit() and bool(parts[1].strip())
    return GainCoordinate.parse(text) if named else Coordinate.parse(text)
