"""Where the data that ships with the harness lies, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def fixtures_directory() -> Path:
    """Return the folder of the registry, the prompts, the corpus and the tiny checkpoints.

    A wheel carries the folder inside the package; a checkout keeps it beside the package.
    """
    installed = _PACKAGE / "fixtures"
    return installed if installed.is_dir() else _PACKAGE.parent / "fixtures"
