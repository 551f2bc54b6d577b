"""Merge indexes into one, and tell what differs between two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from superweight.core.markdown import cell, table
from superweight.core.readable import titled
from superweight.fleet.index import Document
from superweight.fleet.row import Row, differences, encoded, order


@dataclass(frozen=True)
class Difference:
    """What differs between two indexes: models that changed, and those that only one of them has."""

    changed: tuple[Row, ...]
    added: tuple[Row, ...]
    gone: tuple[Row, ...]

    def as_markdown(self) -> str:
        """Return it for an issue or a job summary."""
        if not (self.changed or self.added or self.gone):
            return "Nothing changed.\n"
        lines = [
            f"{len(self.changed)} models changed, {len(self.added)} are new, {len(self.gone)} are gone.",
            "",
        ]
        rows = [(row, cell("; ".join(row.changed))) for row in self.changed]
        rows += [(row, "new") for row in self.added] + [(row, "gone") for row in self.gone]
        lines += table(
            ("model", "status", "what changed"),
            [(f"`{cell(titled(row.model))}`", row.status, what) for row, what in rows],
        )
        return "\n".join(lines) + "\n"


def merged(indexes: Sequence[Document]) -> list[bytes]:
    """Return the rows of all indexes as JSON, in the order of an index.

    Of several rows of one model, mode and base the one that was judged counts, then the last one. Paths
    of pages lead on from the index that they stand in: they are left out.
    """
    chosen: dict[str, Row] = {}
    for document in indexes:
        for row in document.rows:
            other = chosen.get(row.id)
            if other is None or (other.judged, other.finished) <= (row.judged, row.finished):
                chosen[row.id] = row
    return [encoded(row) for row in sorted(map(_without_pages, chosen.values()), key=order)]


def _without_pages(row: Row) -> Row:
    return replace(row, report=None, log=None)


def diff(old: Document, new: Document) -> Difference:
    """Return what differs between an older and a newer index."""
    before = {row.id: row for row in old.rows}
    changed, added, seen = [], [], set()
    for row in new.rows:
        seen.add(row.id)
        if row.id not in before:
            added.append(row)
        elif found := differences(before[row.id], row):
            changed.append(replace(row, changed=found))
    gone = tuple(row for name, row in before.items() if name not in seen)
    return Difference(tuple(sorted(changed, key=order)), tuple(added), gone)
