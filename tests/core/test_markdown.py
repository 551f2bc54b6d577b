"""Markdown tables as a renderer reads them, and pages of which one part is rewritten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superweight.core.errors import BadInput
from superweight.core.markdown import cell, rewritten_between, table

TEXT = st.text(st.characters(exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), max_size=20)


def cells_of(line):
    """Split a row as GitHub does: at every bar that no backslash escapes."""
    unescaped = line.replace(r"\|", "\0").strip()
    return [part.strip().replace("\0", "|") for part in unescaped[1:-1].split("|")]


def test_a_table_reads_as_its_cells():
    """A header, a rule with a dash for every column, a line for every row; an empty cell stays one."""
    assert ["| a | b |", "|---|---|", "| 1 | |", "| | x |"] == table(("a", "b"), [(1, ""), ("", "x")])


@given(TEXT)
def test_an_escaped_text_stays_in_its_cell(text):
    """Whatever a text holds, the row has as many cells as columns, on one line, without markup."""
    lines = table(("text", "after"), [(cell(text.strip("\\") + "x"), "end")])
    assert 3 == len(lines)
    assert [2, "end"] == [len(cells_of(lines[2])), cells_of(lines[2])[1]]
    assert not any(sign in line for line in lines for sign in "<`\n")


def test_a_row_of_other_length_is_refused():
    """A cell too few or too many would shift what stands beneath which column."""
    with pytest.raises(ValueError, match="1 cells in a table of 2 columns"):
        table(("a", "b"), [("only",)])


def test_only_what_lies_between_the_marks_changes(tmp_path):
    """The text around them is kept to the last character, and rewriting twice equals once."""
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- b -->old<!-- e -->\nbelow", encoding="utf-8")
    new = rewritten_between(page, "<!-- b -->", "<!-- e -->", "new")
    assert "above\n<!-- b -->new<!-- e -->\nbelow" == new
    page.write_text(new, encoding="utf-8")
    assert new == rewritten_between(page, "<!-- b -->", "<!-- e -->", "new")


@pytest.mark.parametrize("text", ["", "<b>", "<e>", "<e><b>", "<b><b><e>", "<b><e><e>"])
def test_a_page_without_each_mark_once_is_refused(text, tmp_path):
    """A mark that is missing, doubled or out of order names the page and both marks."""
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=r"page\.md must hold <b> and <e> once each"):
        rewritten_between(page, "<b>", "<e>", "new")
