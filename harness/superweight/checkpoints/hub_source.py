"""Parse the name of a model on the hub: org/name[@revision][:file.gguf or :Q4_K_M]."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import unquote

from superweight.checkpoints.recognition import gguf_files
from superweight.core.errors import BadInput

_FORM = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<early>[\w./-]+))?(:(?P<file>[\w.+-]+(/[\w.+-]+)*))?(@(?P<late>[\w./-]+))?"
)
# The same as an address, which `superweight read` takes as well.
_ADDRESS = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?P<revision>@(refs/\w+/[\w.-]+|[\w.%-]+))?(/(?P<file>[^@?]+\.gguf))?/?"
)
_PART = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class HubSource:
    """A repository, a revision of it, and which GGUF file in it: a path, or what its quantiser is called."""

    repo: str
    revision: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, source: str) -> HubSource | None:
        """Read what a person wrote; None when it is not of the form, or is meant as a path."""
        address = _ADDRESS.fullmatch(source)
        if address is not None:
            file = f":{address['file']}" if address["file"] else ""
            source = unquote(f"{address['repo']}{address['revision'] or ''}{file}")
        match = _FORM.fullmatch(source)
        if match is None or source.startswith((".", "/", "~")) or (match["early"] and match["late"]):
            return None
        return cls(match["repo"], match["early"] or match["late"], match["file"])

    @property
    def address(self) -> str:
        """What a person writes for it."""
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{self.repo}{revision}" + ("" if self.file is None else f":{self.file}")

    def choose(self, names: Collection[str]) -> str:
        """Return which of a repository's files is meant, by its first part where it has several.

        Raises `BadInput` naming the files that are there when none or several are meant.
        """
        files = gguf_files(names)
        wanted = str(self.file)
        if wanted.endswith(".gguf"):
            found = [name for name in names if name == wanted]
        else:
            found = [name for name in files if wanted.lower() in _labels(name)]
        if len(found) == 1:
            return found[0]
        there = ", ".join((found or files)[:8]) or "none"
        what = "more than one GGUF file" if found else "no GGUF file"
        raise BadInput(
            f"{self.repo} has {what} {wanted}; name one of its GGUF files as {self.repo}:FILE ({there})"
        )


def _labels(name: str) -> set[str]:
    """Return what a file may be called for short: its folder, and each ending of its name."""
    folder, _, last = name.lower().rpartition("/")
    stem = _PART.sub("", last.removesuffix(".gguf"))
    cuts = (match.end() for match in re.finditer(r"[-.]", stem))
    return {folder.rpartition("/")[2], stem, *(stem[cut:] for cut in cuts)}
