"""What the summary and the report gather of each test's reports, and what a run is asked to collect."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from superweight.pytest_plugin.collection import SUITE, arguments, suite_files
from superweight.pytest_plugin.terminal import ABOUT, PROPERTY, USED, Verdicts

ROW = {"model": "m", "claim": "C1", "provenance": {"torch": "1"}}


def report(when, *properties, duration=0.0, failed=False):
    return SimpleNamespace(
        when=when,
        nodeid="test_paper.py::test_one",
        user_properties=properties,
        duration=duration,
        failed=failed,
        longreprtext="it is not there\nand more",
    )


@pytest.fixture
def gathered():
    verdicts = Verdicts(SimpleNamespace(option=SimpleNamespace(sw_model=[])))
    yield verdicts
    verdicts.pytest_unconfigure()


def test_a_verdict_is_gathered_once_with_what_its_test_took(gathered):
    """pytest hands the same properties on with every phase; the call's is the one that measured."""
    properties = (PROPERTY, json.dumps(ROW)), (USED, "m")
    for when, seconds in (("setup", 50.0), ("call", 1.23456), ("teardown", 70.0)):
        gathered.pytest_runtest_logreport(report(when, *properties, duration=seconds))
    assert {"m": [ROW]} == dict(gathered._rows)
    assert [{"stage": "test_paper.py::test_one", "seconds": 1.235}] == gathered._stages
    assert {"m"} == gathered._used


def test_a_model_that_could_not_be_set_up_is_told_by_its_own_property(gathered):
    """Whatever else a plugin puts beside it, in whatever order."""
    gathered.pytest_runtest_logreport(report("setup", ("zebra", "another"), (ABOUT, "m"), failed=True))
    gathered.pytest_runtest_logreport(report("setup", ("zebra", "another"), failed=True))
    gathered.pytest_runtest_logreport(report("call", (ABOUT, "n"), failed=True))
    assert {"m": "it is not there"} == gathered._unjudged


def test_the_suite_stands_for_its_files_and_nothing_else_does(tmp_path):
    """A name that comes behind it in the alphabet is a path of the project's own."""
    config = SimpleNamespace(
        args=["a_test.py", SUITE, "zoo"],
        args_source=pytest.Config.ArgsSource.ARGS,
        inipath=None,
        invocation_params=SimpleNamespace(dir=tmp_path),
        option=SimpleNamespace(sw_model=["m"]),
    )
    assert ["a_test.py", *map(str, suite_files()), "zoo"] == arguments(config)
