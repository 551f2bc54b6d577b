"""Write files whole or not at all, also when the program is interrupted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path


def write_whole(contents: Mapping[Path, bytes]) -> None:
    """Write all files beside their places, then rename them; what is scratch goes, on every exit.

    A reader sees the old file or the new one. Raises `OSError` when one cannot be written, and
    then leaves all of them as they were.
    """
    with ExitStack() as scratches:
        renames = []
        for path, content in contents.items():
            # Another process may be writing the same file.
            scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            scratches.callback(scratch.unlink, missing_ok=True)
            scratch.write_bytes(content)
            renames.append((scratch, path))
        for scratch, path in renames:
            scratch.replace(path)
