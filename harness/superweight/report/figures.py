"""Make the paper's figures as charts from a report's data of one model, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from superweight.report.chart_spec import (
    INTACT,
    PRUNED,
    Chart,
    Curve,
    Mark,
    Panel,
    brief,
    number,
    numbered,
    visible,
)

Observed = Mapping[str, Any]


def charts(subject: Mapping[str, Any]) -> list[Chart]:
    """Return the charts that the data of a subject allow, in the paper's order."""
    observed = subject.get("observed") or {}
    makers: dict[str, tuple[Callable[[Any], Chart], Any]] = {
        "magnitudes": (magnitudes, observed),
        "activation": (activation, observed),
        "next_token": (next_token, observed.get("next_token")),
        "words": (words, observed.get("words")),
        "scaling": (scaling, observed.get("scaling")),
        "sweep": (sweep, subject.get("sweep")),
    }
    return [
        make(data) for key, (make, data) in makers.items() if data and (key in observed or key == "sweep")
    ]


def magnitudes(observed: Observed) -> Chart:
    """Return the largest down_proj input and output of each block (Figure 3)."""
    conditions = observed["magnitudes"]
    panels = []
    for what in ("input", "output"):
        curves = tuple(
            Curve(condition, numbered(values[what]), tuple(values[what]))
            for condition, values in conditions.items()
        )
        marks = tuple(
            Mark(weight["layer"], conditions[INTACT][what][weight["layer"]], brief(weight["at"]))
            for weight in _one_a_block(observed["super_weights"])
        )
        panels.append(
            Panel(f"Largest |{what}| of down_proj", "block", f"largest |{what}|", curves, marks, (), True)
        )
    header = [f"{what}, {condition}" for what in ("input", "output") for condition in conditions]
    columns = [values[what] for what in ("input", "output") for values in conditions.values()]
    outputs = conditions[INTACT]["output"]
    peak = max(range(len(outputs)), key=outputs.__getitem__)
    caption = f"Intact, the largest output of a down_proj is {number(outputs[peak])}, in block {peak}"
    if PRUNED in conditions:
        after = max(conditions[PRUNED]["output"])
        caption += f"; with the super weights pruned it is {number(after)}"
    return Chart(
        "magnitudes",
        "Largest down_proj input and output by block",
        f"{caption}. {_listed(observed['super_weights'])} Prompt: {observed['prompt']}",
        tuple(panels),
        ("block", *header),
        _by_block(columns),
    )


def _one_a_block(scalars: Sequence[Observed]) -> list[Observed]:
    """Return one scalar a block, the others counted in its label: labels on one point cover each other."""
    blocks: dict[int, list[Observed]] = {}
    for scalar in scalars:
        blocks.setdefault(scalar["layer"], []).append(scalar)
    return [
        dict(own[0]) | ({"at": f"{own[0]['at']} and {len(own) - 1} more"} if len(own) > 1 else {})
        for own in blocks.values()
    ]


def _listed(weights: Sequence[Observed]) -> str:
    if not weights:
        return "No super weight is found."
    return f"Super weights: {', '.join(str(weight['at']) for weight in weights)}."


def activation(observed: Observed) -> Chart:
    """Return the super activation after every block, under each condition (Figure 4)."""
    found = observed["activation"]
    courses = found["courses"]
    curves = tuple(
        Curve(course["condition"], numbered(course["values"]), tuple(course["values"])) for course in courses
    )
    intact = next(course["values"] for course in courses if course["condition"] == INTACT)
    marks = [Mark(found["onset"], intact[found["onset"]], f"onset, block {found['onset']}")]
    marks += _cancellers(observed["cancellers"], intact)
    peak = max(abs(value) for value in intact)
    left = "; ".join(
        f"{course['condition']}: {number(course['values'][found['last']])}" for course in courses
    )
    return Chart(
        "activation",
        "The super activation through the blocks",
        f"Channel {found['channel']} at token {found['token']}: it appears in block {found['onset']}, "
        f"peaks at {number(peak)} and lasts through block {found['last']}. There it is, {left}.",
        (Panel("After each block", "block", "activation", curves, tuple(marks), level=0.0),),
        ("block", *(course["condition"] for course in courses)),
        _by_block([course["values"] for course in courses]),
    )


def _cancellers(found: Sequence[Mapping[str, Any]], course: Sequence[float]) -> list[Mark]:
    """Return the mark of the cancellers: one, at the first, since blocks beside each other leave no room."""
    places = _one_a_block(found)
    if not places:
        return []
    layers = [item["layer"] for item in places]
    said = f"canceller {places[0]['at']}"
    if len(layers) > 1:
        said = f"cancellers, blocks {', '.join(map(str, layers))}"
    return [Mark(layers[0], course[layers[0]], said)]


def next_token(found: Mapping[str, Any]) -> Chart:
    """Return the likeliest next tokens of one prompt, intact and pruned (Figure 5)."""
    top = found["top"]
    names = tuple(visible(item["token"]) for item in top)
    best = {key: max(top, key=lambda item: item[key])["token"] for key in (INTACT, PRUNED)}
    return Chart(
        "next-token",
        "Likeliest next tokens",
        f"After “{found['context']}” the likeliest next token is {visible(best[INTACT])!r} intact and "
        f"{visible(best[PRUNED])!r} with the super weights pruned.",
        (Panel("Next token", "probability", "", _pair(top), categories=tuple(map(brief, names))),),
        ("token", INTACT, PRUNED),
        tuple(
            (name, number(item[INTACT]), number(item[PRUNED])) for name, item in zip(names, top, strict=True)
        ),
    )


def words(found: Sequence[Mapping[str, Any]]) -> Chart:
    """Return the mean probability of stopwords, punctuation and content words (Figure 5)."""
    names = tuple(f"{visible(item['word'])} ({item['group']})" for item in found)
    likelier = [item["word"] for item in found if item[PRUNED] > item[INTACT]]
    return Chart(
        "words",
        "Stopwords, punctuation and content words",
        f"Mean next-token probability over the corpus. Pruning makes {len(likelier)} of {len(found)} "
        f"likelier{': ' + ', '.join(map(visible, likelier)) if likelier else ''}.",
        (
            Panel(
                "Mean probability",
                "probability",
                "",
                _pair(found),
                categories=tuple(map(brief, names)),
                logarithmic=True,
            ),
        ),
        ("word", INTACT, PRUNED, "ratio"),
        tuple(
            (name, number(item[INTACT]), number(item[PRUNED]), number(item[PRUNED] / item[INTACT]))
            for name, item in zip(names, found, strict=True)
        ),
    )


def _pair(items: Sequence[Mapping[str, Any]]) -> tuple[Curve, ...]:
    return tuple(Curve(key, numbered(items), tuple(item[key] for item in items)) for key in (INTACT, PRUNED))


def scaling(found: Sequence[Mapping[str, Any]]) -> Chart:
    """Return perplexity over the intact model's as the super weights are scaled (Figure 6)."""
    points = sorted(found, key=lambda point: float(point["factor"]))
    curve = Curve(
        "scaled",
        tuple(point["factor"] for point in points),
        tuple(point["perplexity_ratio"] for point in points),
        tuple(point["interval"][0] for point in points),
        tuple(point["interval"][1] for point in points),
    )
    text = "; ".join(f"{point['factor']:g}: {number(point['perplexity_ratio'])}" for point in points)
    return Chart(
        "scaling",
        "Scaling the super weights",
        f"Perplexity over the intact model's by the factor that scales the super weights: {text}.",
        (
            Panel(
                "All super weights scaled",
                "factor",
                "perplexity / intact",
                (curve,),
                logarithmic=True,
                level=1.0,
            ),
        ),
        ("factor", "perplexity ratio", "low", "high"),
        tuple(
            (f"{point['factor']:g}", *map(number, (point["perplexity_ratio"], *point["interval"])))
            for point in points
        ),
    )


def sweep(found: Sequence[Mapping[str, Any]]) -> Chart:
    """Return perplexity over the intact model's by quantisation scheme and block size (Figure 7)."""
    names = tuple(f"{row['scheme']}, {_block(row['block'])}, {_held_out(row['held_out'])}" for row in found)
    curve = Curve(
        "quantised",
        numbered(found),
        tuple(row["perplexity_ratio"] for row in found),
        tuple(row["interval"][0] for row in found),
        tuple(row["interval"][1] for row in found),
    )
    text = "; ".join(
        f"{name}: {number(row['perplexity_ratio'])}" for name, row in zip(names, found, strict=True)
    )
    panel = Panel(
        "Quantised",
        "perplexity / intact",
        "",
        (curve,),
        (),
        tuple(map(brief, names)),
        logarithmic=True,
        level=1.0,
    )
    return Chart(
        "sweep",
        "Quantisation, with and without the super weights held out",
        f"Perplexity over the unquantised model's: {text}.",
        (panel,),
        ("scheme", "perplexity ratio", "low", "high"),
        tuple(
            (name, *map(number, (row["perplexity_ratio"], *row["interval"])))
            for name, row in zip(names, found, strict=True)
        ),
    )


def _block(size: int | str | None) -> str:
    return "whole tensor" if size is None else f"by {size:,}" if isinstance(size, int) else size


def _held_out(value: bool | int | str) -> str:
    return value if isinstance(value, str) else "held out" if value else "as it is"


def _by_block(columns: Sequence[Sequence[float]]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (str(block), *map(number, values)) for block, values in enumerate(zip(*columns, strict=True))
    )
