"""Write a sweep as the JSON that is kept as its baseline, and from it the table and the figure."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from superweight.claims.record import to_json
from superweight.claims.verdict import Measured, measured
from superweight.core import markdown
from superweight.core.atomic import write_whole
from superweight.core.errors import BadInput
from superweight.core.statistics import bootstrap
from superweight.measurement.evaluate import Values
from superweight.model.subject import Subject
from superweight.quantization.backend_sweep import RealLoss, Refused
from superweight.quantization.sweep import HELD_OUT, NAIVE, Sweep

BEGIN, END = "<!-- sweep: begin -->", "<!-- sweep: end -->"

Document = Mapping[str, Any]


def as_document(subject: Subject, result: Sweep, real: Sequence[RealLoss | Refused] = ()) -> dict[str, Any]:
    """Return a sweep as JSON values, numbers that were measured with their tolerance."""
    naive = result.activations[NAIVE] - result.intact
    return {
        "model": subject.name,
        "windows": len(result.intact),
        "intact": _perplexity(result.intact),
        "weights": [
            {
                "size": block.size,
                "clipped_at": block.clip,
                "plain": _perplexity(block.plain),
                "held_out": _perplexity(block.held_out),
                "clipped_only": None if block.clipped is None else _perplexity(block.clipped),
                "nats_won": _mean(block.plain - block.held_out),
            }
            for block in result.blocks
        ],
        "activations": {
            name: {
                "perplexity": _perplexity(losses),
                "share_closed": None if name == NAIVE else _share(naive - losses + result.intact, naive),
            }
            for name, losses in result.activations.items()
        },
        "real": {str(row.quantiser): _real(row) for row in real},
        "provenance": subject.provenance.as_dict(),
    }


def _real(row: RealLoss | Refused) -> dict[str, Any]:
    if isinstance(row, Refused):
        return {"refused": row.reason}
    return {
        "plain": _perplexity(row.plain),
        "held_out": _perplexity(row.held_out),
        "nats_won": _mean(row.plain - row.held_out),
    }


def _perplexity(losses: Values) -> Any:
    # Of a broken model the loss moves more between kernels than the perplexity of a whole one.
    return to_json(measured(float(np.exp(losses.mean())), relative=0.05))


def _mean(values: Values) -> dict[str, Any]:
    interval = bootstrap(values)
    return _with_interval(float(values.mean()), interval.low, interval.high, 0.05)


def _share(part: Values, whole: Values) -> dict[str, Any]:
    both = np.stack([part, whole], axis=1)
    share = part.mean() / whole.mean()
    interval = bootstrap(both, lambda means: means[:, 0] / means[:, 1])
    return _with_interval(float(share), interval.low, interval.high, 0.03)


def _with_interval(value: float, low: float, high: float, within: float) -> dict[str, Any]:
    ends = (to_json(Measured(end, within)) for end in (low, high))
    return {"mean": to_json(Measured(value, within)), "interval": list(ends)}


def dumped(document: Document) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def table(document: Document) -> str:
    """Return the tables of a sweep in Markdown."""
    found = [
        markdown.table(
            (
                "INT4 block",
                "plain",
                "clipped at z",
                "clipped, set held out",
                "clipped, not restored",
                "nats won",
            ),
            [
                (
                    f"{row['size']:,}",
                    _number(row["plain"]),
                    "no clipping" if row["clipped_at"] is None else f"{row['clipped_at']:g}",
                    _number(row["held_out"]),
                    _number(row["clipped_only"]),
                    _interval(row["nats_won"]),
                )
                for row in document["weights"]
            ],
        ),
        markdown.table(
            ("activations", "perplexity", "share of the gap closed"),
            [
                ("full", _number(document["intact"]), ""),
                *(
                    (
                        name,
                        _number(row["perplexity"]),
                        "" if row["share_closed"] is None else _interval(row["share_closed"]),
                    )
                    for name, row in document["activations"].items()
                ),
            ],
        ),
    ]
    if document["real"]:
        columns = ("real quantiser", "plain", "set held out", "nats won")
        found.append(markdown.table(columns, [_backend_cells(*item) for item in document["real"].items()]))
    return "\n\n".join("\n".join(lines) for lines in found) + "\n"


def _backend_cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    if "refused" in row:
        return name, f"does not run: {row['refused']}", "", ""
    return name, _number(row["plain"]), _number(row["held_out"]), _interval(row["nats_won"])


def _number(value: Mapping[str, float] | None) -> str:
    if value is None:
        return ""
    number = value["value"]
    return f"{number:.2f}" if number < 1000 else f"{_significant(number):,.0f}"


def _significant(value: float, digits: int = 3) -> float:
    return round(value, digits - 1 - math.floor(math.log10(value)))


def _interval(value: Mapping[str, Any]) -> str:
    low, high = (f"{end['value']:.3f}" for end in value["interval"])
    return f"{value['mean']['value']:.3f} [{low}, {high}]"


def figure(document: Document) -> str:
    """Return the sweep as one SVG, the same bytes for the same numbers."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "sweep", "svg.fonttype": "none", "font.size": 9}):
        drawing = Figure(figsize=(9, 3.6), layout="constrained")
        weights, activations = drawing.subplots(1, 2, width_ratios=(3, 2))
        _draw_weights(weights, document)
        _draw_activations(activations, document)
        stream = io.StringIO()
        drawing.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def _draw_weights(axes: Any, document: Document) -> None:
    sizes = [row["size"] for row in document["weights"]]
    lines = {
        "plain": ("round-to-nearest", "o-", "#b2182b"),
        "clipped_only": ("clipped, not restored", "^:", "#777777"),
        "held_out": ("clipped, super weights held out", "s-", "#2166ac"),
    }
    for key, (label, style, colour) in lines.items():
        values = [math.nan if row[key] is None else row[key]["value"] for row in document["weights"]]
        axes.plot(sizes, values, style, color=colour, label=label, markersize=4)
    axes.axhline(document["intact"]["value"], color="black", linewidth=0.8, linestyle="--", label="full")
    axes.set(
        xscale="log", yscale="log", xlabel="weights in a block", ylabel="perplexity", title="INT4 weights"
    )
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30, ha="right")
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)


def _draw_activations(axes: Any, document: Document) -> None:
    rows = {"full": document["intact"]["value"]}
    rows |= {name: row["perplexity"]["value"] for name, row in document["activations"].items()}
    colours = ["#2166ac" if name == HELD_OUT else "#999999" for name in rows]
    bars = axes.barh(list(rows), list(rows.values()), color=colours)
    axes.bar_label(bars, fmt="%.1f", padding=2)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel="perplexity", title="W8A8")
    axes.spines[["top", "right"]].set_visible(False)


def write_page(path: Path, document: Document) -> None:
    """Put the tables between the marks of a page and the figure beside it, each whole or not at all.

    Raises `BadInput` for a page that cannot be read or written, or has no marks.
    """
    picture = path.with_suffix(".svg")
    try:
        new = markdown.rewritten_between(path, BEGIN, END, f"\n{table(document)}")
        write_whole({picture: figure(document).encode(), path: new.encode()})
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot rewrite {path}: {error}; give a page in UTF-8 that may be written") from error
