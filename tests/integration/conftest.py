"""A project of a user's own: the claims as tests, and the committed baselines."""

from __future__ import annotations

import shutil
from pathlib import Path

import hypothesis  # noqa: F401  # or its plugin imports it anew in every run within a run
import pytest

from superweight.claims.check import Request, check_model
from superweight.claims.run_config import Setting

REPOSITORY = Path(__file__).parents[2]
CLAIMS = REPOSITORY / "tests" / "claims"


@pytest.fixture(scope="session")
def _imported():
    """Import what a check imports, once: pytester forgets what is first imported inside a run."""
    check_model(Request("tiny-planted", None, "paper", Setting(device="cpu")))


@pytest.fixture
def project(pytester, monkeypatch, _imported):
    """Run pytest, in process, over a copy of the claims and their baselines."""
    monkeypatch.delenv("CI", raising=False)
    # Of a run that is ended pytest renders the source around every frame, unless told a style; here
    # those are four dozen, and nobody reads them.
    rendered = pytest.ExceptionInfo.getrepr
    brief = lambda caught, **how: rendered(caught, **({"style": "native"} | how))  # noqa: E731
    monkeypatch.setattr(pytest.ExceptionInfo, "getrepr", brief)
    shutil.copy(CLAIMS / "test_paper.py", pytester.path)
    shutil.copytree(CLAIMS / "baselines", pytester.path / "baselines")
    return pytester


@pytest.fixture
def run(project):
    """Run the claims on given options; -k narrows them down."""

    def run(*options, claims=""):
        chosen = ["-k", claims] if claims else []
        return project.runpytest_inprocess("-p", "no:cacheprovider", *chosen, *options)

    return run
