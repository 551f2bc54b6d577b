"""Quantisation losses as the rows of a report's sweep (Figure 7)."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.measuring import Values
from harness.quantization.sweep import HELD_OUT, Sweep
from harness.statistics import bootstrap

Row = dict[str, Any]


def sweep_rows(result: Sweep) -> list[Row]:
    """Return one row a scheme: perplexity over the intact model's, with an interval over windows."""
    intact, rows = result.intact, []
    for block in result.blocks:
        rows.append(_row(intact, "INT4", f"blocks of {block.size:,}", "as it is", block.plain))
        rows.append(_row(intact, "INT4", f"blocks of {block.size:,}", "held out", block.held_out))
    for name, losses in result.activations.items():
        held = "held out" if name == HELD_OUT else "as it is"
        rows.append(_row(intact, f"W8A8, {name}", "one step a matrix", held, losses))
    return rows


def _row(intact: Values, scheme: str, block: str, held_out: str, losses: Values) -> Row:
    rise = losses - intact
    interval = bootstrap(rise)
    ratio, low, high = (float(np.exp(value)) for value in (rise.mean(), interval.low, interval.high))
    return {
        "scheme": scheme,
        "block": block,
        "held_out": held_out,
        "perplexity_ratio": ratio,
        "interval": [low, high],
    }
