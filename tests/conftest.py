"""Fixtures of the harness's own tests: tiny models, trained ones and planted ones."""

from __future__ import annotations

import pytest

from harness.loading import load
from harness.registry import resolve


@pytest.fixture(scope="session")
def planted():
    """The tiny trained model that depends on its one super weight."""
    return load(resolve("tiny-planted"), device="cpu")


@pytest.fixture(scope="session")
def plain():
    """Its twin, which has none."""
    return load(resolve("tiny-plain"), device="cpu")
