"""List the entries of the cache, and delete the least recently used beyond its limit."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from superweight.checkpoints.cache import UNFINISHED, cache_directory, sole_use
from superweight.core.errors import BadInput
from superweight.core.size import parse_size

LIMIT = "SUPERWEIGHT_CACHE_LIMIT"
DEFAULT_LIMIT = 20 * 10**9
# What a converted copy was made from.
RECORD = "converted-from.json"
# Another run may be about to open what was asked for so few seconds ago.
_JUST_USED = 600.0
_log = logging.getLogger("superweight")


@dataclass(frozen=True)
class Entry:
    """One thing that was downloaded or converted.

    ``used`` is when it was last asked for, in seconds; ``made_from`` is the name of the file that it was
    made from, or its own.
    """

    path: Path
    size: int
    used: float
    made_from: str

    @property
    def kind(self) -> str:
        return self.path.parent.name


def limit() -> int:
    """Return how many bytes the cache may hold; raises `BadInput` for a limit that is no size."""
    text = os.environ.get(LIMIT, "").strip()
    if not text:
        return DEFAULT_LIMIT
    try:
        return parse_size(text)
    except BadInput as error:
        raise BadInput(f"{LIMIT} is {error}") from error


def entries() -> list[Entry]:
    """Return what the cache holds, the most recently used first."""
    root = cache_directory()
    try:
        kinds = [kind for kind in root.iterdir() if kind.is_dir()] if root.is_dir() else []
        found = [path for kind in kinds for path in kind.iterdir() if _is_entry(path)]
        return sorted((_entry(path) for path in found), key=lambda entry: entry.used, reverse=True)
    except OSError as error:
        raise BadInput(f"cannot look into the cache {root}: {error.strerror or error}") from error


def keep_within_limit(kept: Path) -> list[Entry]:
    """Remove what was not used for longest until the cache is within its limit; return what went.

    ``kept``, and what was used in the last ten minutes, stays. A warning names what went, or says
    that the rest is larger than the limit by itself. What cannot be removed stays.
    """
    most = limit()
    held = [entry for entry in entries() if not entry.path.name.startswith(UNFINISHED)]
    total = sum(entry.size for entry in held)
    gone: list[Entry] = []
    for entry in reversed(held):
        recent = time.time() - entry.used < _JUST_USED
        if total <= most or recent or entry.path == kept or kept.is_relative_to(entry.path):
            continue
        if remove([entry]):
            gone.append(entry)
            total -= entry.size
    if gone:
        _log.warning(
            "the cache was above its limit of %.3g GB (%s): %s went, used longest ago",
            most / 1e9,
            LIMIT,
            ", ".join(f"{entry.made_from} ({entry.size / 1e9:.3g} GB)" for entry in gone),
        )
    if total > most:
        _log.warning(
            "the cache holds %.3g GB, above its limit of %.3g GB (%s)", total / 1e9, most / 1e9, LIMIT
        )
    return gone


def remove(unwanted: Collection[Entry]) -> list[Entry]:
    """Remove entries; return those that went. What another process is making stays."""
    gone = []
    for entry in unwanted:
        with sole_use(entry.path) as alone:
            if alone:
                if entry.path.is_dir():
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    entry.path.unlink(missing_ok=True)
        if not entry.path.exists():
            gone.append(entry)
    return gone


def _is_entry(path: Path) -> bool:
    if path.name.startswith(UNFINISHED):
        # Left behind by a process that was killed: a build that goes on is younger.
        return time.time() - path.stat().st_mtime > 24 * 3600
    return not path.name.startswith(".")


def _entry(path: Path) -> Entry:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    used = max([path.stat().st_mtime, *(file.stat().st_mtime for file in files)])
    return Entry(path, size, used, _made_from(path))


def _made_from(path: Path) -> str:
    try:
        return str(json.loads((path / RECORD).read_text(encoding="utf-8"))["file"])
    except (OSError, ValueError, KeyError, TypeError):
        return path.name
