"""How a pytest run gets its models, and what becomes of a test whose model cannot be had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.environment import in_ci
from harness.errors import BadInput, TooLarge, Unavailable, one_line
from harness.registry import STORED, ModelEntry, resolve
from harness.sharing import share_cores

if TYPE_CHECKING:
    from harness.loading import Subject


def obtain(config: pytest.Config, entry: ModelEntry, *, on_behalf_of: ModelEntry | None = None) -> Subject:
    """Load a model, or end the test, or the run, in the way that fits what stands against it.

    A model that somebody named and that is not there ends the run like a bad option (exit code 4).
    One that the markers picked is skipped where it cannot be had, which is an error under CI, and
    where it does not fit.
    """
    from harness.loading import load

    option = config.option
    named = (on_behalf_of or entry) in [resolve(spec) for spec in (*option.sw_model, option.sw_base) if spec]
    share_cores()
    try:
        if not named and entry.tier == "gpu":
            _refuse_too_large(entry, option.sw_dtype)
        return load(
            entry, device=option.sw_device, dtype=option.sw_dtype, trust=option.sw_trust, offload=named
        )
    except BadInput as error:
        if named:
            pytest.exit(f"error: {one_line(error)}", returncode=pytest.ExitCode.USAGE_ERROR)
        if isinstance(error, TooLarge) or (isinstance(error, Unavailable) and not in_ci()):
            pytest.skip(f"{entry.name}: {error}")
        pytest.fail(f"{entry.name}: {error}", pytrace=False)


def _refuse_too_large(entry: ModelEntry, dtype: str) -> None:
    """Raise `TooLarge` before a model is downloaded that would not fit."""
    from harness.devices import present
    from harness.placement import place

    weights, devices = entry.weight_bytes(STORED.get(dtype)), present()
    if weights is not None and devices:
        place(weights, [device.free for device in devices])
