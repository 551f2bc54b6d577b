"""Keep what is downloaded or converted in a cache directory, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from superweight.core.errors import BadInput

DIRECTORY_NAME = "superweight-harness"
# How the folders of what is being built begin.
UNFINISHED = ".building-"

# Told each step that takes a while, as it begins.
Progress = Callable[[str], None]


def silent(step: str) -> None:
    """Tell nobody."""


def cache_directory() -> Path:
    """Return where the system keeps caches of a user: on Linux ``~/.cache/superweight-harness``.

    ``XDG_CACHE_HOME`` moves it, also where the system has a place of its own. A user without a home
    directory gets a folder of their own under ``$TMPDIR``.
    """
    from platformdirs import user_cache_path

    try:
        return user_cache_path(DIRECTORY_NAME, appauthor=False)
    # Neither HOME nor an entry in the password file: a container under a random user id.
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"{DIRECTORY_NAME}-{os.getuid()}"


def get_or_build(destination: Path, build: Callable[[Path], None]) -> Path:
    """Return ``destination``, made by ``build(scratch)`` if it is not there yet.

    ``build`` fills a scratch path beside the destination, which is then renamed in one step.
    A lock makes a second process wait for the first, so a reader sees nothing or everything.
    Raises `BadInput` when the cache cannot be written.
    """
    if destination.exists():
        _mark_used(destination)
        return destination
    with _locked(destination):
        if destination.exists():  # another process built it while this one waited
            return destination
        scratch_root = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=destination.parent))
        try:
            scratch = scratch_root / destination.name
            build(scratch)
            scratch.replace(destination)
        except OSError as error:
            raise BadInput(
                f"cannot write {destination}: {error.strerror or error}; "
                "free some space or set XDG_CACHE_HOME to a writable directory"
            ) from error
        finally:
            shutil.rmtree(scratch_root, ignore_errors=True)
    return destination


def _mark_used(destination: Path) -> None:
    """Set the time of last use, by which a cache that is too large chooses what goes."""
    with suppress(OSError):  # a cache that may only be read
        os.utime(destination)


@contextmanager
def sole_use(destination: Path) -> Iterator[bool]:
    """Tell whether no other process builds ``destination``, and keep it so."""
    lock = FileLock(destination.parent / f".{destination.name}.lock")
    try:
        lock.acquire(timeout=0)
    except (OSError, Timeout):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def _locked(destination: Path) -> Iterator[None]:
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(destination.parent / f".{destination.name}.lock")
        lock.acquire()
    except OSError as error:
        raise BadInput(
            f"cannot use the cache {destination.parent}: {error.strerror or error}; "
            "set XDG_CACHE_HOME to a writable directory"
        ) from error
    try:
        yield
    finally:
        lock.release()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
