"""Quantisation losses as the rows of a report's sweep (Figure 7)."""

from __future__ import annotations

from typing import Any

import numpy as np

from superweight.core.statistics import bootstrap
from superweight.measurement.evaluate import Values
from superweight.quantization.sweep import HELD_OUT, Sweep

Row = dict[str, Any]


def sweep_rows(result: Sweep) -> list[Row]:
    """Return one row a scheme: perplexity over the intact model's, with an interval over windows."""
    intact, rows = result.intact, []
    for block in result.blocks:
        rows.append(_row(intact, "INT4", block.size, block.plain, held_out=False))
        rows.append(_row(intact, "INT4", block.size, block.held_out, held_out=True))
    for name, losses in result.activations.items():
        rows.append(_row(intact, f"W8A8, {name}", None, losses, held_out=name == HELD_OUT))
    return rows


def _row(intact: Values, scheme: str, block: int | None, losses: Values, *, held_out: bool) -> Row:
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
