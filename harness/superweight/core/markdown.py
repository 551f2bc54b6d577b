"""Write Markdown tables, and rewrite the part of a page that lies between two marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from superweight.core.errors import BadInput


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table; every row has a cell for every column.

    Cells are Markdown themselves; `cell` escapes a text that must not be read as such.
    """
    lines = [_row(columns), "|" + "---|" * len(columns)]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{len(row)} cells in a table of {len(columns)} columns: {row}")
        lines.append(_row(row))
    return lines


def _row(cells: Sequence[object]) -> str:
    # A cell without text is written "| |", not "|  |".
    return "|" + "".join(f" {cell} |" if cell != "" else " |" for cell in cells)


def cell(text: str) -> str:
    """Escape what would end a cell or start markup."""
    return text.replace("|", r"\|").replace("<", "&lt;").replace("`", "'").replace("\n", " ")


def rewritten_between(path: Path, begin: str, end: str, body: str) -> str:
    """Return the text of a page with ``body`` between its marks; the file stays as it is.

    Raises `BadInput` for a page that does not hold each mark once, and `OSError` or
    `UnicodeDecodeError` for one that cannot be read.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise BadInput(f"{path} must hold {begin} and {end} once each; the tables go between them")
    return text[: text.index(begin)] + begin + body + text[text.index(end) :]
