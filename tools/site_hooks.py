"""Hooks of mkdocs: the generated pages join those of docs/, and pages that the menu does not name yet."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
# mkdocs loads a hook by its file: the repository is not on the path of imports.
sys.path.insert(0, str(REPOSITORY))
sys.path.insert(0, str(REPOSITORY / "harness"))

from tools import site_pages  # noqa: E402

_OTHERS = "More"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give pages of docs/ that the menu does not name a place in it, behind the others."""
    if names := site_pages.undocumented():
        raise PluginError(f"a public name has no docstring: {', '.join(names)}")
    config.nav = with_others(
        with_commands(config.nav or [], sorted(site_pages.command_pages())),
        sorted(path.name for path in Path(config.docs_dir).glob("*.md")),
    )
    return config


def with_commands(nav: list[Any], pages: list[str]) -> list[Any]:
    """Return the menu with a page a command below the one that lists them."""
    sections = json.dumps(nav)
    others = "".join(f", {json.dumps(page)}" for page in pages if page not in sections)
    filled: list[Any] = json.loads(sections.replace('"commands/index.md"', f'"commands/index.md"{others}', 1))
    return filled


def with_others(nav: list[Any], pages: list[str]) -> list[Any]:
    """Return the menu with a section for the pages that it does not name."""
    named = set(re.findall(r"[\w/.-]+\.md", repr(nav)))
    others = [page for page in pages if page not in named]
    return [*nav, {_OTHERS: others}] if others else nav


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the files that they show."""
    for path, content in site_pages.generated().items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links to files beside docs/ into links to their pages on the site."""
    return site_pages.linked(markdown, page.file.src_uri)
