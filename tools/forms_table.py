"""Writes the tables of docs/forms.md from the table of forms.

    python -m tools.forms_table

puts a row for every form that is read, and for every one that is named and not read, between the
two markers of the page.
"""

from __future__ import annotations

import sys
from pathlib import Path

from superweight.checkpoints.forms.table import FORMS, SCALED, UNREAD

PAGE = Path(__file__).parents[1] / "docs" / "forms.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def main() -> int:
    """Rewrite the page."""
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def rewritten(page: str) -> str:
    """Return the page with the tables of today between its markers."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{render()}{END}{after}"


def render() -> str:
    """Return the tables in Markdown."""
    lines = [
        "| form | made by | a number is | held to |",
        "|---|---|---|---|",
        *(
            f"| {form.name} | {form.made_by} | {form.layout} | {form.checked_against} |"
            for form in (*SCALED, *FORMS)
        ),
        "",
        "| recognised, not read | by its tensors | instead |",
        "|---|---|---|",
        *(f"| {kind} | `{suffix}` | {instead} |" for suffix, (kind, instead) in UNREAD.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
