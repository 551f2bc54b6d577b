"""Put a table between its two marks in a page of docs/."""

from __future__ import annotations

from pathlib import Path

END = "<!-- end of table -->"


def put(table: str, page: Path, begin: str) -> None:
    """Write ``table`` into ``page`` in place of what stands between ``begin`` and the next `END`.

    Raises `ValueError` for a page without the one mark, or with nothing that ends it.
    """
    before, rest = page.read_text(encoding="utf-8").split(begin)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"{page}: nothing ends the table behind {begin}")
    page.write_text(f"{before}{begin}\n\n{table}\n\n{END}{after}", encoding="utf-8")
