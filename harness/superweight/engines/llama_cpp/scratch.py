"""Keep a run's large files in a folder of its own, and remove what a run that was killed left behind."""

from __future__ import annotations

import os
import shutil
import weakref
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from superweight.checkpoints.cache import cache_directory
from superweight.core.errors import BadInput

_RUN = "run-"
_LOCK = ".lock"


def scratch_root() -> Path:
    """Return where the folders of all runs lie."""
    return cache_directory() / "engines"


class Scratch:
    """A folder that is gone with this object, with the program, or, after a kill, with the next run.

    The system gives up the lock beside a folder when the program that holds it ends, however it ends.
    """

    def __init__(self, root: Path | None = None) -> None:
        """Make the folder, and remove those whose run is over; raises `BadInput` where that fails."""
        root = scratch_root() if root is None else root
        self.path = root / f"{_RUN}{os.getpid()}-{uuid4().hex[:8]}"
        lock = FileLock(root / (self.path.name + _LOCK))
        try:
            root.mkdir(parents=True, exist_ok=True)
            # Before the folder: a folder whose lock nobody holds is one that nobody needs.
            lock.acquire()
            self.path.mkdir()
        except OSError as error:
            raise BadInput(
                f"cannot use the cache {root}: {error.strerror or error}; set XDG_CACHE_HOME to a writable "
                "directory"
            ) from error
        self.remove = weakref.finalize(self, _remove, self.path, lock)
        _remove_left_behind(root)


def _remove(path: Path, lock: FileLock) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _remove_left_behind(root: Path) -> None:
    for folder in root.glob(f"{_RUN}*"):
        if not folder.is_dir():
            continue
        lock = FileLock(root / (folder.name + _LOCK))
        try:
            lock.acquire(timeout=0)
        except (OSError, Timeout):
            continue  # in use
        _remove(folder, lock)
