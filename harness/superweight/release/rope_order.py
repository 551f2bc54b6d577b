"""Put the rows of queries and keys of Mistral's own layout into the order that transformers has them in.

Rotary embeddings turn numbers of a head in pairs. Mistral's files hold the two of a pair side by side,
transformers' hold first the one half of each head and then the other.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from superweight.checkpoints.tensors.checkpoint import Checkpoint, json_object
from superweight.release.extents import Table, in_memory
from superweight.release.tensor_names import Held, is_mistral_name

_PARAMS = "params.json"
_TURNED = re.compile(r"\b[qk]_proj\.weight")


_Side = tuple[Checkpoint, Held, Table]


def in_one_order(key: str, base: _Side, release: _Side) -> tuple[Table, Table] | None:
    """Return a tensor of both sides with its rows in one order; None where params.json does not tell which.

    ``key`` is the canonical name. Only queries and keys differ, and only where one side is Mistral's.
    """
    sides = (base, release)
    native = [is_mistral_name(held.name) for _, held, _ in sides]
    if not _TURNED.search(key) or native[0] == native[1]:
        return base[2], release[2]
    checkpoint, _, table = sides[native.index(True)]
    length = head_length(checkpoint)
    if length is None or length % 2 or table.count % length:
        return None
    turned = in_transformers_order(table, length)
    return (turned, release[2]) if native[0] else (base[2], turned)


def head_length(checkpoint: Checkpoint) -> int | None:
    """Return how many rows a head has by params.json, None where that does not tell."""
    text = checkpoint.folder.document(_PARAMS)
    params = {} if text is None else json_object(text, f"{checkpoint.folder.name}/{_PARAMS}")
    told, width, heads = (params.get(name) for name in ("head_dim", "dim", "n_heads"))
    if isinstance(told, int) and told > 0:
        return told
    whole = isinstance(width, int) and isinstance(heads, int) and heads > 0 and width % heads == 0
    return width // heads if whole else None  # type: ignore[operator]  # both are numbers


def in_transformers_order(table: Table, length: int) -> Table:
    """Return the rows of heads of ``length`` each, as transformers has them."""
    return in_memory(table.rows(0, table.count)[_order(table.count, length)])


def _order(count: int, length: int) -> npt.NDArray[np.intp]:
    return np.arange(count).reshape(-1, length // 2, 2).transpose(0, 2, 1).reshape(-1)
