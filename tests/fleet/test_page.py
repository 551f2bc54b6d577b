"""The page of an index in a real browser: silent, alone, accessible, filtered and sorted; 2,000 rows too."""

from __future__ import annotations

import pytest

from superweight.fleet.index import finish
from superweight.fleet.row import AS_EXPECTED, NOT_AS_EXPECTED, STATUSES, Carried
from superweight.fleet.storage import Storage
from tests.report.browser.test_page import HOSTILE, SCHEMES, WIDTHS, violations

from .rows import named

pytestmark = pytest.mark.xdist_group("browser")

HOSTILE_NAME = f"org/{'long-' * 12}{HOSTILE}"
TEN, MANY = 10, 2000


def rows(count):
    """As many rows, of every status, the last with a hostile name; the first changed since the last run."""
    made = [
        named(
            f"org/{place:04}",
            status=STATUSES[place % len(STATUSES)],
            carried=Carried(1.0 + place, 1, 2, None),
        )
        for place in range(count - 1)
    ]
    return [*made, named(HOSTILE_NAME, status=AS_EXPECTED, reason=HOSTILE, verdict=HOSTILE)]


def written(folder, count):
    storage = Storage(str(folder))
    before = rows(count)
    before[0] = named("org/0000", status=AS_EXPECTED)
    for night in (before, rows(count)):
        finish(storage, lambda night=night: night)
    return folder / "index.html"


@pytest.fixture(scope="session")
def ten(tmp_path_factory):
    return written(tmp_path_factory.mktemp("ten"), TEN)


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    return written(tmp_path_factory.mktemp("many"), MANY)


VIEWS = [
    pytest.param("ten", width, scheme, marks=[] if (width, scheme) == (360, "dark") else pytest.mark.slow)
    for width in WIDTHS
    for scheme in SCHEMES
] + [pytest.param("many", 1280, "light", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("name", "width", "scheme"), VIEWS)
def test_the_page_is_accessible_silent_alone_and_fits(visit, request, name, width, scheme):
    """axe-core finds nothing, the console is empty, only the file itself is read, nothing sticks out."""
    path = request.getfixturevalue(name)
    page = visit(path, width=width, scheme=scheme)
    assert width == page.evaluate("document.documentElement.scrollWidth")
    assert [path.as_uri()] == page.asked
    assert [] == page.said
    assert [] == violations(page)


def shown(page):
    return page.locator("tbody tr:visible").count()


def first(page):
    return page.locator("tbody tr:visible th").first.inner_text().split()[0]


@pytest.mark.parametrize("name", ["ten", pytest.param("many", marks=pytest.mark.slow)])
def test_rows_are_filtered_and_sorted_in_the_page(visit, request, name):
    """By words, by status, by change; numbers are sorted as numbers, both ways."""
    count = TEN if name == "ten" else MANY
    page = visit(request.getfixturevalue(name))
    assert count == shown(page)
    assert "org/0000" == first(page)
    assert f"{count} of {count}" == page.locator("#shown").inner_text()
    page.get_by_label("changed only").check()
    assert 1 == shown(page)
    page.get_by_label("changed only").uncheck()
    page.get_by_label("Status").select_option(NOT_AS_EXPECTED)
    assert sum(row.status == NOT_AS_EXPECTED for row in rows(count)) == shown(page)
    page.get_by_label("Status").select_option("all")
    page.get_by_label("Search").fill("ORG/0003 crashed")
    assert 0 == shown(page)
    page.get_by_label("Search").fill("org/0003 judged")
    assert ("org/0003", 1) == (first(page), shown(page))
    page.get_by_label("Search").fill("")
    page.get_by_role("button", name="Perplexity without").click()
    assert "org/0000" == first(page)
    page.get_by_role("button", name="Perplexity without").click()
    assert HOSTILE_NAME.split()[0] == first(page)
    assert "descending" == page.locator("th[aria-sort]").get_attribute("aria-sort")
    assert [] == page.said


def test_each_row_leads_to_its_model(visit, ten):
    """Its page lies beside the index."""
    page = visit(ten)
    links = page.locator("tbody th a")
    assert TEN == links.count()
    assert links.first.get_attribute("href").startswith("models/")


def test_hostile_words_stay_text(visit, ten):
    """Name, verdict and reason are shown as they are; no element comes of them, and no script runs."""
    page = visit(ten)
    assert (0, 1) == (page.locator("img").count(), page.locator("script").count())
    assert HOSTILE in page.locator("tbody").inner_text()
    assert [] == page.said


def test_a_script_that_is_not_ours_does_not_run(visit, ten, tmp_path):
    """The policy names our script by its digest: one more letter, and the page keeps still and says so."""
    broken = tmp_path / "index.html"
    broken.write_text(
        ten.read_text(encoding="utf-8").replace('"use strict";', '"use strict"; '), encoding="utf-8"
    )
    page = visit(broken)
    assert not page.get_by_label("Search").is_visible()
    assert any("Content Security Policy" in line for line in page.said)
