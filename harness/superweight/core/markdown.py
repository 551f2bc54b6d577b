"""Write Markdown tables, and rewrite the part of a page that lies between two marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


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


def rewritten_between(page: str, begin: str, end: str, body: str) -> str:
    """Return a page with ``body`` between its marks; raises `ValueError` for a page without them."""
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no {begin} ... {end}")
    return before + begin + body + end + after
