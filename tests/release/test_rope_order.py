"""How many rows a head has by params.json, and in which order they lie."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from superweight.release.extents import in_memory
from superweight.release.rope_order import head_length, in_transformers_order


def length(params):
    text = None if params is None else json.dumps(params).encode()
    return head_length(SimpleNamespace(folder=SimpleNamespace(name="m", document=lambda _: text)))


@pytest.mark.parametrize(
    ("params", "rows"),
    [
        ({"head_dim": 128, "dim": 4096, "n_heads": 16}, 128),
        ({"dim": 4096, "n_heads": 32}, 128),
        ({"head_dim": 0, "dim": 4096, "n_heads": 32}, 128),
        ({"head_dim": -8, "dim": 4096, "n_heads": 32}, 128),
        ({"head_dim": 1}, 1),
        ({"head_dim": "128"}, None),
        ({"dim": 4097, "n_heads": 32}, None),
        ({"dim": 4096, "n_heads": 0}, None),
        ({"dim": 4096}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_rows_of_a_head_are_told_or_not(params, rows):
    """As it is said, else by the width; where neither goes, by nothing."""
    assert rows == length(params)


def test_pairs_become_halves():
    """Of a head of four rows the first of each pair come first, head by head."""
    table = in_memory(np.arange(8, dtype=np.float32)[:, None])
    turned = in_transformers_order(table, 4)
    assert [0, 2, 1, 3, 4, 6, 5, 7] == turned.rows(0, 8)[:, 0].tolist()
