"""Make one self-contained page from a report's document: no network, no scripts, only escaped text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from superweight.core.readable import times, titled
from superweight.report.chart_spec import Chart, number
from superweight.report.figures import charts

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """An interval against a threshold, as places from 0 to 100 along a small bar."""

    low: float
    high: float
    at: float
    threshold: float
    words: str


def subjects(document: Document) -> list[Document]:
    """Return every model that a document has data of: each followed by the base it is held to."""
    models = document.get("models", [document] if "model" in document else [])
    return [subject for model in models for subject in (model, model.get("base")) if subject]


def environment_of(package: str) -> Environment:
    """Return what renders a package's templates: outside words are escaped, what is missing is told."""
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(document: Document, pictures: Mapping[str, str]) -> str:
    """Return the page; ``pictures`` holds the svg element of each chart by its key."""
    environment = environment_of("superweight.report")
    environment.filters |= {
        "titled": titled,
        "bar": bar,
        "sentence": sentence,
        "number": number,
        "times": times,
    }
    every = subjects(document)
    return environment.get_template("page.html.jinja").render(
        title=_title(document),
        comparison=document.get("comparison"),
        judged=[subject for subject in every if subject.get("verdicts")],
        groups=[group for group in _groups(document, every) if any(item.charts for item in group)],
        subjects=every,
        found=[subject for subject in every if _has_found(subject)],
        writings=[subject for subject in every if (subject.get("observed") or {}).get("writings")],
        run=document.get("run") or {},
        # The only markup that comes from outside the templates: matplotlib's, where texts are escaped.
        pictures={key: Markup(picture) for key, picture in pictures.items()},  # noqa: S704
    )


def _has_found(subject: Document) -> bool:
    """Tell whether there is something to list: neurons, gains or an effect, which older reports lack."""
    observed = subject.get("observed") or {}
    return any(observed.get(part) for part in ("neurons", "gains", "effect"))


@dataclass(frozen=True)
class Side:
    """The charts of one model, each with the key of its picture; models in a group stand side by side."""

    model: str
    charts: dict[str, tuple[str, Chart]]


def _groups(document: Document, every: Sequence[Document]) -> list[list[Side]]:
    sides = [
        Side(
            titled(subject["model"]),
            {chart.key: (f"{place + 1}-{chart.key}", chart) for chart in charts(subject)},
        )
        for place, subject in enumerate(every)
    ]
    if "comparison" in document:
        return [sides]
    pairs: list[list[Side]] = []
    remaining = iter(sides)
    for model in document.get("models", [document]):
        pairs.append([next(remaining) for _ in range(2 if model.get("base") else 1)])
    return pairs


def _title(document: Document) -> str:
    if "comparison" in document:
        comparison = document["comparison"]
        return f"{titled(comparison['release'])} against {titled(comparison['base'])}"
    if "models" in document:
        return f"Super weights of {len(document['models'])} models"
    return f"Super weights of {titled(document['model'])}"


def sentence(subject: Document) -> str:
    """Return a model's verdict in a sentence or two."""
    rows = subject["verdicts"]
    if not rows:
        return "No claim was judged."
    counts = {
        status: sum(row["status"] == status for row in rows)
        for status in ("supported", "refuted", "inconclusive", "not applicable")
    }
    claims = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    unexpected = [row["claim"] for row in rows if not row["as_expected"]]
    if unexpected:
        held = f"{len(unexpected)} of {len(rows)} claims are not as expected: {', '.join(unexpected)}."
    elif open_ := [row["claim"] for row in rows if "unmet" in row]:
        held = f"{len(open_)} of {len(rows)} claims could not be judged: {', '.join(open_)}."
    elif all(row["expected"] is None for row in rows):
        held = "This model is met for the first time: nothing was compared."
    else:
        held = f"All {len(rows)} claims are as expected."
    return f"{held} Of the paper's claims, {claims}."


def bar(row: Document) -> Bar | None:
    """Return where a verdict's interval, statistic and threshold stand, or None where there are none."""
    if row["interval"] is None or row["statistic"] is None or row["threshold"] is None:
        return None
    (low, high), at, threshold = row["interval"], row["statistic"], row["threshold"]
    words = f"{number(at)}, interval {number(low)} to {number(high)}, threshold {row['direction']} "
    values = [low, high, at, threshold]
    least = min(values)
    # Perplexity ratios span decades; a linear scale would show only the largest.
    curved = least > 0 and max(values) / least > 20
    places = [math.log(value) if curved else value for value in values]
    start, span = min(places), max(places) - min(places)
    shares = [8 + 84 * (place - start) / span if span else 50.0 for place in places]
    return Bar(shares[0], shares[1], shares[2], shares[3], words + number(threshold))
