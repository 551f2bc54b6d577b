"""Read what the environment of a run says about it."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

DISTRIBUTION = "superweight-harness"

# What --device takes: ROCm's GPUs are cuda to torch; the others are there where torch was built for them.
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu", "npu")


def in_ci() -> bool:
    """Tell whether the run is in CI, by the variable that CI services set."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def versions(harness: str) -> dict[str, Any]:
    """Return what a report of a fault should name: this harness, Python, the machine, and the packages.

    Packages are those that the distribution declares, extras included, as far as they are installed.
    None is imported. Nothing of the user or of the machine's name is in it.
    """
    return {
        "superweight": harness,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "packages": dict(sorted(_packages())),
    }


def _packages() -> list[tuple[str, str]]:
    found = []
    try:
        declared = requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # run from its source, not installed
        declared = []
    for name in {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in declared}:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found
