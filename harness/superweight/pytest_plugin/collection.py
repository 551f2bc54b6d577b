"""Collect the claims that ship with the harness, for who has the wheel and not the repository."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from superweight.core.resources import DEFAULT_BASELINES, suite_directory

# What a wheel's claims are called for --pyargs; a checkout keeps them elsewhere.
SUITE = "superweight.suite"


def arguments(config: pytest.Config) -> list[str]:
    """Return what is to be collected, with the claims that ship with the harness where they are meant.

    They are meant by name (``--pyargs superweight.suite``), and by ``--sw-model`` in a directory that has
    no tests of its own.
    """
    # Files, not their folder: a project's own python_files and norecursedirs do not apply to them.
    suite, here = [str(path) for path in suite_files()], config.invocation_params.dir
    implied = config.args_source is pytest.Config.ArgsSource.INVOCATION_DIR and config.inipath is None
    own = any(True for pattern in ("test_*.py", "*_test.py", "test", "tests") for _ in here.glob(pattern))
    if config.option.sw_model and implied and not own:
        return suite
    return [path for argument in config.args for path in (suite if argument == SUITE else [argument])]


def suite_files() -> list[Path]:
    """Return the test files that ship with the harness."""
    return sorted(suite_directory().glob("test_*.py"))


def mark_as_tests(collector: pytest.Collector, name: str, item: object) -> None:
    """Mark the functions of the shipped claims as tests, whatever the project calls its own."""
    if collector.path.parent == suite_directory() and name.startswith("test_") and inspect.isfunction(item):
        vars(item)["__test__"] = True


def baselines(request: pytest.FixtureRequest) -> Path:
    """Return where baselines lie: beside the tests, or for tests that were installed, in the project."""
    config, beside = request.config, request.path.parent
    if config.option.sw_baselines is not None:
        return Path(config.option.sw_baselines)
    installed = beside == suite_directory() and not beside.is_relative_to(config.rootpath)
    return config.rootpath / DEFAULT_BASELINES if installed else beside / "baselines"
