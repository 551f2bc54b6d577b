"""Read what the environment of a run says about it."""

from __future__ import annotations

import os

# What --device takes: ROCm's GPUs are cuda to torch; the others are there where torch was built for them.
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu", "npu")


def in_ci() -> bool:
    """Tell whether the run is in CI, by the variable that CI services set."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")
