"""Where a scalar sits: the paper's (layer, row, col), zero-based."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import BadInput


@dataclass(frozen=True, order=True)
class Coordinate:
    """One scalar of one MLP output projection, as Table 2 of the paper writes it.

    ``row`` is the residual (output) channel and ``col`` the intermediate (input) neuron,
    whatever way round the checkpoint stores its matrix.
    """

    layer: int
    row: int
    col: int

    def __post_init__(self) -> None:
        if min(self.layer, self.row, self.col) < 0:
            raise BadInput(f"coordinate {self} has a negative index; indices start at 0")

    def __str__(self) -> str:
        return f"[{self.layer}, {self.row}, {self.col}]"

    @classmethod
    def parse(cls, text: str) -> Coordinate:
        """Read ``LAYER,ROW,COL``; raises `BadInput` for anything else."""
        try:
            layer, row, col = (int(part) for part in text.strip("[] ").split(","))
        except ValueError:
            raise BadInput(
                f"{text!r} is not a coordinate; write LAYER,ROW,COL, for example 11,507,1229"
            ) from None
        return cls(layer, row, col)
