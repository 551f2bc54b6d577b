"""Keep the home directory, and so whose it is, out of a report."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def without_home(value: Any) -> Any:
    """Return JSON values with the home directory written ``~`` in every text."""
    if isinstance(value, str):
        return _shortened(value)
    if isinstance(value, Mapping):
        return {_shortened(str(key)): without_home(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_home(item) for item in value]
    return value


def command_line(words: Sequence[str]) -> str:
    """Return a command as one would type it, a leading ``~`` left for the shell to read."""
    return " ".join(_typed(_shortened(word)) for word in words)


def _typed(word: str) -> str:
    # A quoted ~ is no home directory to a shell.
    prefix, separator, path = word.partition("~/")
    if separator and (not prefix or re.fullmatch(r"[\w-]+=", prefix)):
        return f"{shlex.quote(prefix) if prefix else ''}~/{shlex.quote(path)}"
    return shlex.quote(word)


def _shortened(text: str) -> str:
    for home in sorted(_homes(), key=len, reverse=True):
        if home != "/":
            text = re.sub(rf"(?<![\w./-]){re.escape(home)}(?![\w.-])", "~", text)
    return text


def _homes() -> set[str]:
    """Return the user's home directory, links followed and not; nothing where there is none."""
    try:
        return {str(Path.home()), str(Path.home().resolve())}
    except RuntimeError:
        return set()
