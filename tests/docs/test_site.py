"""The site: it builds without a warning, and in a real browser it is silent, alone and accessible."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="needs mkdocs: pip install '.[docs]'")

from tools import site_hooks, site_pages

REPOSITORY = Path(__file__).parents[2]


def build(source, target):
    """Build the site of a copy of the repository, strictly; return its exit code and what mkdocs says.

    Not quietly: mkdocs then counts no warning, and nothing is red.
    """
    program = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [*program, "--site-dir", str(target)],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    code, said = build(REPOSITORY, folder)
    assert 0 == code, said
    return folder


@pytest.fixture(scope="session")
def address(site):
    """The site on a server of this machine."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def faults(page, url, address):
    """What a browser finds wrong with one page."""
    from axe_playwright_python.sync_playwright import Axe

    said, asked = [], []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url, wait_until="networkidle")
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    elsewhere = [each for each in asked if not each.startswith((address, "data:", "blob:"))]
    rules = [(rule["id"], [node["html"][:120] for node in rule["nodes"][:3]]) for rule in found]
    return [*said, *elsewhere, *rules]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_silent_alone_and_accessible(browser, site, address, scheme):
    """No line on the console, no request elsewhere, and no violation found by axe-core, on any page."""
    wrong = {}
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    assert 40 < len(pages)
    for name in pages:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
        if found := faults(context.new_page(), f"{address}/{name}", address):
            wrong[name] = found
        context.close()
    assert {} == wrong


@pytest.mark.slow
def test_the_search_finds_a_word(browser, address):
    """The index lies with the site: a search asks nobody else."""
    page = browser.new_page()
    page.goto(f"{address}/index.html", wait_until="networkidle")
    asked = page.locator("[data-md-component=search-query]").first
    asked.click()
    # What is typed before the index is there is not searched for.
    page.get_by_text("Type to start searching").wait_for(timeout=20_000)
    asked.press_sequentially("canceller", delay=20)
    page.locator(".md-search-result__item").first.wait_for(timeout=20_000)
    assert "ancell" in page.locator(".md-search-result__list").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "was", "broken", "said"),
    [
        ("docs/index.md", "(tutorial.md)", "(tutorials.md)", "tutorials.md"),
        ("docs/index.md", "compare.md#limits", "compare.md#limit", "#limit"),
        (
            "harness/superweight/api.py",
            '    """Find the super weights of a model',
            '    x = """Find',
            "sw.scan",
        ),
    ],
    ids=["link", "anchor", "docstring"],
)
def test_the_build_can_fail(tmp_path, file, was, broken, said):
    """A link or an anchor that leads nowhere, and a public name without a docstring, are red."""
    copy = tmp_path / "copy"
    kept = ("docs", "harness", "tools", "examples", "fixtures")
    for folder in kept:
        shutil.copytree(REPOSITORY / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("mkdocs.yml", *site_pages.BESIDE):
        shutil.copy(REPOSITORY / name, copy)
    text = (copy / file).read_text(encoding="utf-8")
    assert was in text
    (copy / file).write_text(text.replace(was, broken, 1), encoding="utf-8")
    code, printed = build(copy, tmp_path / "site")
    assert code != 0
    assert said in printed


def test_pages_that_the_menu_does_not_name_get_a_place():
    """A new page of docs/ is on the site before somebody puts it where it belongs."""
    nav = [{"Start": ["index.md", {"Gate": "compare.md"}]}]
    assert nav == site_hooks.with_others(nav, ["compare.md", "index.md"])
    assert [*nav, {"More": ["new.md"]}] == site_hooks.with_others(nav, ["compare.md", "new.md"])


def test_links_to_files_beside_docs_lead_to_their_pages():
    """What the site has is linked, by the place of the page; what it has not is named."""
    text = "[security](../SECURITY.md#top), [code](../tools/fuzz.py), [gate](compare.md)"
    assert "[security](security.md#top), code, [gate](compare.md)" == site_pages.linked(
        text, "reliability.md"
    )
    assert "[gate](compare.md)" == site_pages.linked("[gate](docs/compare.md)", "contributing.md")


def test_every_public_name_is_documented():
    """Names of the face, their methods, what functions return, and strategies."""
    assert [] == site_pages.undocumented()


def test_every_command_has_a_page_with_its_help():
    """The page shows what --help prints, and each option."""
    pages = site_pages.command_pages()
    assert "--no-effect" in pages["commands/scan.md"]
    assert set(pages) == {path for path in site_pages.paths() if path.startswith("commands/")}


QUESTIONS = 10


def test_ten_questions_of_a_newcomer_are_one_click_from_the_first_page():
    """The first page lists them, each with the page that answers it; the answer says the words asked for."""
    index = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    answers = dict(re.findall(r"^\| (.+?\?) \| \[[^\]]+\]\(([^)#]+)", index, re.MULTILINE))
    assert QUESTIONS <= len(answers)
    words = {
        "How do I gate my release in GitHub Actions?": "uses: OWNER/superweight-harness",
        "What does exit 3 mean?": "cannot be judged here",
        "Why is C9 refuted?": "Why C9 is refuted",
        "Can I use it on a GGUF?": "| GGUF |",
        "How do I add a claim?": "A claim is a module",
        "How do I keep my model's verdicts as a baseline?": "--snapshot-update",
        'My release is "damaged": what do the numbers mean?': "damaged when",
        "How long does it take, and how much memory?": "GB",
        "What will not change in the next version?": "Exit codes",
        "Which models can be measured?": "Any causal language model",
    }
    for question, word in words.items():
        assert word in (REPOSITORY / "docs" / answers[question]).read_text(encoding="utf-8"), question
