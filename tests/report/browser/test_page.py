"""The page in a real browser: silent, alone, narrow enough for a phone, and accessible."""

from __future__ import annotations

import itertools
import json

import pytest
from click.testing import CliRunner

from superweight.cli.main import main

# One browser, and each page once, for all workers.
pytestmark = pytest.mark.xdist_group("browser")

HOSTILE = "<img src=x onerror=\"console.error('in')\"><script>console.error('in')</script>"
# Each page, width and scheme in every run; the other views with the long ones.
WIDTHS, SCHEMES = (360, 1280), ("light", "dark")
QUICK = {("report", 360, "dark"), ("compared", 1280, "light")}


def command(*arguments):
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code in (0, 1), result.output


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """The report of the planted model beside its base, with a hostile model's name, token and text."""
    folder = tmp_path_factory.mktemp("report")
    command("check", "tiny-tuned", "--base", "tiny-planted", "--json", folder / "report.json")
    document = json.loads((folder / "report.json").read_text())
    document["model"] = f"{'very-long-name-' * 8}{HOSTILE}"
    document["observed"]["next_token"]["top"][0]["token"] = HOSTILE
    document["observed"]["writings"][0] |= {"prompt": HOSTILE, "pruned": "loop" * 200}
    (folder / "report.json").write_text(json.dumps(document))
    command("report", folder / "report.json")
    return folder / "report.html"


@pytest.fixture(scope="session")
def compared(tmp_path_factory):
    """The report of a comparison."""
    folder = tmp_path_factory.mktemp("compared")
    command("compare", "tiny-planted", "tiny-tuned", "--report", folder)
    return folder / "report.html"


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """The report of the real model, as the documentation shows it."""
    folder = tmp_path_factory.mktemp("real")
    command("check", "smollm2-135m-instruct-q4_1", "--report", folder)
    return folder / "report.html"


VIEWS = [
    *(
        pytest.param(*view, marks=[] if view in QUICK else pytest.mark.slow)
        for view in itertools.product(("report", "compared"), WIDTHS, SCHEMES)
    ),
    *(
        pytest.param(*view, marks=[pytest.mark.slow, pytest.mark.checkpoint])
        for view in itertools.product(("real",), WIDTHS, SCHEMES)
    ),
]


def violations(page):
    from axe_playwright_python.sync_playwright import Axe

    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    # What passes is not asked for: listing it takes axe a third of its time.
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [(fault["id"], [node["html"][:200] for node in fault["nodes"]]) for fault in found]


@pytest.mark.parametrize(("name", "width", "scheme"), VIEWS)
def test_the_page_is_accessible_silent_alone_and_fits(visit, request, name, width, scheme):
    """axe-core finds nothing, the console is empty, only the file itself is read, nothing sticks out."""
    path = request.getfixturevalue(name)
    page = visit(path, width=width, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert width == page.evaluate("document.documentElement.scrollWidth")
    assert [path.as_uri()] == page.asked
    assert [] == page.said
    assert [] == violations(page)


def test_what_the_checks_look_for_is_found(visit, compared, tmp_path):
    """On a broken copy of a page each of the four checks finds what was put in."""
    text = compared.read_text(encoding="utf-8")
    text = text.replace("default-src 'none'", "default-src * 'unsafe-inline'").replace(
        "<main",
        '<img src="missing.png"><script>console.error("said")</script>'
        '<div style="width:2000px">wide</div><main',
    )
    broken = tmp_path / "broken.html"
    broken.write_text(text, encoding="utf-8")
    page = visit(broken, width=360)
    assert page.evaluate("document.documentElement.scrollWidth") > 360
    assert any(url.endswith("missing.png") for url in page.asked)
    assert "error: said" in page.said
    assert "image-alt" in [name for name, _ in violations(page)]


def test_hostile_words_stay_text(visit, report):
    """Name, prompt and token are shown as they are; no element comes of them."""
    page = visit(report)
    assert 0 == page.locator("script, img").count()
    assert HOSTILE in page.locator("h1").inner_text()
    assert page.locator("h3", has_text="onerror").count() >= 1
    assert f"{HOSTILE.replace(' ', '␣')[:27]}…" in page.locator("svg text").all_text_contents()
    assert HOSTILE.replace(" ", "␣") in page.locator("figure th").all_text_contents()


def test_a_keyboard_reaches_the_content_and_opens_the_numbers(visit, report):
    """The first Tab skips to the content; Enter on a summary shows its table."""
    page = visit(report)
    page.keyboard.press("Tab")
    assert "Skip to the content" == page.evaluate("document.activeElement.textContent")
    page.locator("figure summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("figure table").first.is_visible()


def test_figures_have_a_name_and_a_description(visit, report):
    """Each figure's drawing is one image to a screen reader, named by its heading and caption."""
    page = visit(report)
    figures = page.locator("figure").all()
    names = [figure.locator("h3").inner_text() for figure in figures]
    assert len(names) >= 8
    assert len(set(names)) == len(names)
    for figure, name in zip(figures, names, strict=True):
        labels = figure.locator("svg").first.get_attribute("aria-labelledby").split()
        texts = [page.locator(f"[id='{label}']").text_content() for label in labels]
        assert name == texts[0]
        assert texts[1].strip()


def test_on_paper_it_is_light_and_whole(visit, report):
    """Printed, the page is dark on white even where the screen is dark, and has no navigation."""
    page = visit(report, scheme="dark")
    page.emulate_media(media="print")
    assert "rgb(255, 255, 255)" == page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert not page.locator("nav").is_visible()
