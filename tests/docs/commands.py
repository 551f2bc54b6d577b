"""The commands that the pages show, and how each of them can be checked."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
_COMMAND = re.compile(
    r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?"
    r"(?P<program>superweight|pytest|python3? -m (?P<module>[\w.]+)|make|\.venv/bin/pip|pip)\b(?P<rest>.*)"
)
# What stands for something else, in a line that shows how a command is formed.
_PLACEHOLDER = re.compile(r"\b(MODEL|BASE|RELEASE|DIR|FILE|LAYER)\b")


@dataclass(frozen=True)
class Shown:
    """One command of a page; ``synopsis`` says that it shows a form and cannot be run as it stands."""

    page: str
    program: str
    arguments: tuple[str, ...]
    synopsis: bool

    def __str__(self) -> str:
        return " ".join([self.program, *self.arguments])


def shown() -> list[Shown]:
    """Return every command of the pages once, in their order."""
    found: dict[str, Shown] = {}
    for page in PAGES:
        for line in code(page.read_text(encoding="utf-8")):
            match = _COMMAND.fullmatch(line.strip())
            # How a shell is told of completion is click's to test.
            if match is None or "_SUPERWEIGHT_COMPLETE=" in line:
                continue
            synopsis = _PLACEHOLDER.search(match["rest"]) is not None
            # Behind two spaces a synopsis says what it does.
            text = re.split(r"\s{3,}", match["rest"].strip())[0] if synopsis else match["rest"]
            program = match["module"] or match["program"].removeprefix(".venv/bin/")
            command = Shown(page.name, program, tuple(shlex.split(text, comments=True)), synopsis)
            found.setdefault(str(command), command)
    return list(found.values())


def code(text: str) -> Iterator[str]:
    """Yield the lines of a page's code blocks: indented ones, and fenced ones without a language."""
    fenced: str | None = None
    # A command may go on behind a backslash.
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.startswith("```"):
            fenced = line.removeprefix("```") if fenced is None else None
        elif fenced == "" or (fenced is None and line.startswith("    ")):
            yield line
    assert fenced is None, "a fence is left open"
