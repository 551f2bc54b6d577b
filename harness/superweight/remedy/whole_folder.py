"""Write a folder whole or not at all: beside its place first, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from superweight.core.errors import BadInput
from superweight.core.readable import readable

# What headers, configs and the file system itself take beside the weights.
_MARGIN = 2**20


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a scratch folder that becomes ``target`` at the end, and is removed where there is an error.

    Raises `BadInput` where the folder cannot be written.
    """
    scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        scratch.mkdir()
        yield scratch
        scratch.replace(target)
    except OSError as error:
        raise BadInput(f"cannot write {target}: {error.strerror or error}; nothing was written") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def require_free(target: Path, *sources: Path) -> None:
    """Raise `BadInput` where no new folder can stand at ``target``: taken, in a source, or no parent."""
    place = target.resolve()
    for source in sources:
        origin = source.resolve()
        if place == origin or (place == origin.parent and origin.is_file()):
            raise BadInput(
                f"--out {target} is where {source} lies; give a new folder, which nothing lies in yet"
            )
        if origin.is_dir() and place.is_relative_to(origin):
            raise BadInput(f"--out {target} lies inside {source}; give a folder beside it")
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        raise BadInput(f"--out {target} is there already; give a new folder, or remove it first")
    if not place.parent.is_dir():
        raise BadInput(f"--out {target}: there is no folder {place.parent}; make it first")


def require_room(target: Path, size: int) -> None:
    """Raise `BadInput` where ``size`` bytes do not fit beside ``target``."""
    free = shutil.disk_usage(target.resolve().parent).free
    if free < size + _MARGIN:
        raise BadInput(
            f"--out {target}: the copy takes {readable((size + _MARGIN) / 1e6)} MB and the disk has "
            f"{readable(free / 1e6)} MB left; make room, or give a folder on another disk"
        )
