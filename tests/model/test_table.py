"""The table of docs/architectures.md is what the tests say, and names every family and build."""

from __future__ import annotations

from xml.etree import ElementTree

from tools.architecture_table import BEGIN, END, PAGE, rows_of

from .families import FAMILIES
from .test_builds import QUANTISED


def test_every_family_and_build_has_its_row():
    """A family that was added without running the table again is missing from the page."""
    table = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("| ")}
    assert [] == sorted({*FAMILIES, *QUANTISED} - set(rows))
    assert [] == [line for line in rows.values() if "failed" in line]


def test_a_failure_is_a_row_that_says_so():
    """Passed, failed and skipped are told apart by what pytest reported."""
    report = ElementTree.fromstring(  # noqa: S314  # written three lines below
        "<testsuites><testsuite>"
        "<testcase><properties><property name='build' value='one'/></properties></testcase>"
        "<testcase><properties><property name='build' value='two'/></properties><failure/></testcase>"
        "<testcase><properties><property name='build' value='three'/></properties>"
        "<skipped message='needs CUDA'/></testcase>"
        "<testcase/>"
        "</testsuite></testsuites>"
    )
    assert [("one", "passed"), ("two", "failed"), ("three", "skipped: needs CUDA")] == [
        (what, outcome) for what, _, outcome in rows_of(report)
    ]
