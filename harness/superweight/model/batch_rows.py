"""Rows that join the batch between two blocks, and what a block must then be called with."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn

from superweight.core.errors import UnknownArchitecture
from superweight.model.half_blocks import HalfBlock

_PACKAGE = Path(__file__).resolve().parents[1]
_SHAPES = re.compile(r"\b(?:sizes?|shapes?|dimensions?)\b")


class NoRowsJoin(Exception):
    """Raised where a stream has no place for more rows, such as one in several lanes."""


def rows_join(block: nn.Module, hidden: torch.Tensor) -> bool:
    """Tell whether more rows can join the stream before a block.

    They cannot where it is in several lanes, nor at half a block, which is handed more than its stream.
    """
    return hidden.ndim == 3 and not isinstance(block, HalfBlock)


def rows_do_not_fit(error: RuntimeError) -> bool:
    """Tell whether a block's own arithmetic failed on the shape of rows that it did not expect.

    Some blocks make masks or biases for the number of sequences that the model was called with. An
    error that this package raised itself is none of those, nor is one of memory.
    """
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    memory = isinstance(error, torch.OutOfMemoryError)
    return not memory and not last.is_relative_to(_PACKAGE) and _SHAPES.search(str(error)) is not None


def entering(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> torch.Tensor:
    """Return the residual stream that a block is called with: (sequences, tokens, hidden), or in lanes.

    Raises `UnknownArchitecture` where a block is given something else.
    """
    hidden = arguments[0] if arguments else keywords.get("hidden_states")
    if not isinstance(hidden, torch.Tensor) or hidden.ndim not in (3, 4):
        shape = f"of shape {tuple(hidden.shape)}" if isinstance(hidden, torch.Tensor) else "that is no tensor"
        raise UnknownArchitecture(
            f"its blocks are given a stream {shape}, not one of (sequences, tokens, hidden), or of several "
            "lanes of it"
        )
    return hidden


def with_rows(
    hidden: torch.Tensor, sequences: int, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a block's arguments with ``hidden`` as its stream: several copies of the ``sequences``.

    Masks and positions that were made row by row for the sequences alone are repeated for each copy.
    """
    copies = len(hidden) // sequences

    def widened(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(widened(item) for item in value)
        if not isinstance(value, torch.Tensor) or value.ndim < 2 or len(value) % sequences:
            return value
        return value.repeat(copies, *[1] * (value.ndim - 1))

    others = {name: widened(value) for name, value in keywords.items() if name != "hidden_states"}
    if arguments:
        return (hidden, *map(widened, arguments[1:])), others
    return (), {"hidden_states": hidden, **others}
