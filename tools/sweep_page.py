"""The tables of the decoder sweep: written into docs/architectures.md, and compared with what is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import transformers

from superweight.core import markdown

PAGE = Path(__file__).resolve().parents[1] / "docs/architectures.md"
FOUND, WRONG, REFUSED, TRACEBACK = "found", "wrong", "refused", "traceback"
NOT_CARRIED, NOT_RUNNABLE = "nothing carried, none found", "not runnable"
_COLUMNS = ("model type", "class", "result", "where, or why not")


@dataclass(frozen=True)
class Outcome:
    """What a scan made of one class, and the line that says so, fit for a cell of a table."""

    key: str
    name: str
    result: str
    line: str


def marks(classes: str) -> tuple[str, str]:
    """Return the marks on the page between which the table of some classes stands."""
    return f"<!-- {classes}: begin -->", f"<!-- {classes}: end -->"


def totals(outcomes: Sequence[Outcome]) -> str:
    """Return how many classes had each result, in one line."""
    counts = Counter(item.result for item in outcomes)
    each = ", ".join(f"{result}: {count}" for result, count in sorted(counts.items()))
    return f"transformers {transformers.__version__}; of {len(outcomes)} classes, {each}."


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a Markdown table, with a line of totals before it."""
    rows = [(item.key, item.name, item.result, item.line) for item in outcomes]
    return "\n".join([totals(outcomes), "", *markdown.table(_COLUMNS, rows)]) + "\n"


def rewritten(page: Path, classes: str, outcomes: Sequence[Outcome]) -> str:
    """Return the page with the table of some classes anew."""
    return markdown.rewritten_between(page, *marks(classes), f"\n{table(outcomes)}")


def known(page: str, classes: str) -> list[Outcome]:
    """Return what the page states of some classes."""
    begin, end = marks(classes)
    rows = [line.split(" | ") for line in page.split(begin)[1].split(end)[0].splitlines()]
    return [
        Outcome(row[0].removeprefix("| "), row[1], row[2], " | ".join(row[3:]).removesuffix(" |"))
        for row in rows
        if len(row) >= 4 and row[0] != f"| {_COLUMNS[0]}"
    ]


def updated(before: Sequence[Outcome], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the earlier outcomes with the new ones in their places."""
    rows = {item.key: item for item in (*before, *outcomes)}
    return [rows[key] for key in sorted(rows)]


def difference(before: Sequence[Outcome], outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line for each class that is new, gone, or has another result than the page states."""
    now, stated = ({item.key: item for item in each} for each in (outcomes, before))
    lines = [f"- {key} is gone (it was: {item.result})" for key, item in stated.items() if key not in now]
    for key, item in now.items():
        if key not in stated:
            lines.append(f"- {key} ({item.name}) is new: {item.result}. {item.line}")
        elif item.result != stated[key].result:
            lines.append(
                f"- {key} ({item.name}): {stated[key].result} before, {item.result} now. {item.line}"
            )
    return lines
