"""The sweep's tables: what the page states is read back, and a difference to it is a line."""

from __future__ import annotations

from tools.decoder_sweep import CAUSAL, IMAGE_TEXT, VARIANT, jobs
from tools.sweep_page import (
    FOUND,
    PAGE,
    REFUSED,
    TRACEBACK,
    WRONG,
    Outcome,
    difference,
    known,
    rewritten,
    updated,
)

ONE = Outcome("one", "OneForCausalLM", FOUND, "1:mlp.down_proj.weight")
TWO = Outcome("two", "TwoForCausalLM", REFUSED, "block 0: 3 | 4")


def test_the_page_states_every_class_and_none_is_wrong():
    """A class without a row was not swept; one that is wrong or ends in a traceback is a defect."""
    page = PAGE.read_text(encoding="utf-8")
    for classes in (CAUSAL, VARIANT, IMAGE_TEXT):
        rows = known(page, classes)
        assert set(jobs(classes)) == {row.key for row in rows}
        assert [] == [row.key for row in rows if row.result in (WRONG, TRACEBACK)]


def test_what_was_written_is_read_back(tmp_path):
    """Between the marks, and nothing else is touched."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- causal: begin -->\n<!-- causal: end -->\nafter\n", encoding="utf-8")
    text = rewritten(page, CAUSAL, [ONE, TWO])
    assert [ONE, TWO] == known(text, CAUSAL)
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_a_difference_is_a_line_for_each_class():
    """New, gone, or another result; another line alone is none."""
    three = Outcome("three", "Three", FOUND, "x")
    assert [] == difference([ONE, TWO], [ONE, Outcome("two", "TwoForCausalLM", REFUSED, "other")])
    lines = difference([ONE, TWO], [Outcome("one", "OneForCausalLM", WRONG, "none found"), three])
    assert [
        "- two is gone (it was: refused)",
        "- one (OneForCausalLM): found before, wrong now. none found",
        "- three (Three) is new: found. x",
    ] == lines


def test_a_part_of_the_table_is_renewed():
    """Rows that were not swept again stay."""
    again = Outcome("two", "TwoForCausalLM", FOUND, "y")
    assert [ONE, again] == updated([ONE, TWO], [again])
