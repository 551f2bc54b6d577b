"""Find the data and the claims that ship with the package, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

# Where a project keeps the baselines of the claims.
DEFAULT_BASELINES = Path("tests/claims/baselines")

_PACKAGE = Path(__file__).resolve().parents[1]
# Of a checkout: the package lies in its source root `harness/`.
_REPOSITORY = _PACKAGE.parents[1]


def fixtures_directory() -> Path:
    """Return the folder of the registry, the prompts, the corpus and the tiny checkpoints.

    A wheel carries the folder inside the package; a checkout keeps it beside the package.
    """
    installed = _PACKAGE / "fixtures"
    return installed if installed.is_dir() else _REPOSITORY / "fixtures"


def suite_directory() -> Path:
    """Return the folder of the claims as tests, laid out like `fixtures_directory`."""
    installed = _PACKAGE / "suite"
    return installed if installed.is_dir() else _REPOSITORY / "tests" / "claims"
