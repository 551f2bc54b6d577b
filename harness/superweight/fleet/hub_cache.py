"""Keep the hub's cache of a node within a limit, and let nothing go that a task is using."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from superweight.checkpoints.cache import cache_directory
from superweight.checkpoints.hub_source import HubSource
from superweight.checkpoints.registry import ModelEntry
from superweight.checkpoints.sources import local_path
from superweight.core.errors import BadInput

_PINS = "fleet-in-use"


@contextmanager
def in_use(entries: Sequence[ModelEntry], limit: int | None) -> Iterator[None]:
    """Keep the downloads of some models for the length of a ``with`` block, then go within the limit.

    ``limit`` is in bytes; None leaves the cache alone.
    """
    repositories = sorted({found for entry in entries if (found := _repository(entry)) is not None})
    if limit is None or not repositories:
        yield
        return
    folder = cache_directory() / _PINS
    folder.mkdir(parents=True, exist_ok=True)
    pin = folder / str(os.getpid())
    pin.write_text("\n".join(repositories))
    try:
        yield
    finally:
        pin.unlink(missing_ok=True)
        evict(limit)


def evict(limit: int) -> list[str]:
    """Delete what was used longest ago until the hub's cache is within a limit; return which repositories.

    What a task on this node uses stays, even where that is more than the limit.
    """
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    folder = cache_directory() / _PINS
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        try:
            cached = scan_cache_dir(constants.HF_HUB_CACHE)
        except CacheNotFound:
            return []
        used = {line for pin in folder.iterdir() if _alive(pin) for line in pin.read_text().splitlines()}
        total, gone = cached.size_on_disk, []
        for repository in sorted(cached.repos, key=lambda item: item.last_accessed):
            if total <= limit:
                break
            if repository.repo_type == "model" and repository.repo_id not in used:
                # By its folder: a copy of a repository has the same commits, and stays.
                shutil.rmtree(repository.repo_path, ignore_errors=True)
                total -= repository.size_on_disk
                gone.append(repository.repo_id)
        return gone


def _repository(entry: ModelEntry) -> str | None:
    with suppress(BadInput):
        if not local_path(entry).exists() and (wanted := HubSource.parse(entry.source)) is not None:
            return wanted.repo
    return None


def _alive(pin: Path) -> bool:
    """Tell whether the task that set a pin still runs; one that is gone leaves its pin behind."""
    if not pin.name.isdigit():
        return False
    try:
        os.kill(int(pin.name), 0)
    except ProcessLookupError:
        pin.unlink(missing_ok=True)
        return False
    except PermissionError:
        return True
    return True
