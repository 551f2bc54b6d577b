"""The figures that docs/gpu.md keeps are measured by code that runs."""

from __future__ import annotations

import datetime
import re

from tools.gpu_figures import BEGIN, END, PAGE, table

from .sizes import SMALL


def test_the_figures_of_the_small_model():
    """Date and versions, the coordinate found, and times that are positive ratios."""
    text = table(SMALL, datetime.date(2030, 1, 2))
    assert text.startswith("Run on 2030-01-02: CPU, ")
    assert f"| planted at, found at | {SMALL.place}, {SMALL.place} |" in text
    ratios = re.findall(r"over a bare pass \| ([\d.e+-]+) \|", text)
    assert 2 == len(ratios)
    assert all(float(ratio) > 0 for ratio in ratios)


def test_the_page_has_one_place_for_them():
    """The page says that nothing was run, or holds a table with its date."""
    page = PAGE.read_text(encoding="utf-8")
    assert (1, 1) == (page.count(BEGIN), page.count(END))
    between = page.split(BEGIN)[1].split(END)[0]
    assert ("not been run" in between) != between.startswith("Run on ")
