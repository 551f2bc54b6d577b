"""What is collected, and on which models, by what a run was asked for."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import pytest

from superweight.pytest_plugin import collection, options, plugin, xdist
from superweight.pytest_plugin.collection import SUITE

HERE = pytest.Config.ArgsSource.INVOCATION_DIR


def config(folder=None, *, args=(), source=None, inipath=None, models=(), mark="", collect=False, told=None):
    """Stand in for pytest's, with what these functions read of it."""
    option = SimpleNamespace(sw_model=list(models), markexpr=mark, collectonly=collect)
    known = {"workerinput": told} if told is not None else {}
    return SimpleNamespace(
        args=list(args),
        args_source=source,
        inipath=inipath,
        option=option,
        stash=pytest.Stash(),
        invocation_params=SimpleNamespace(dir=folder),
        **known,
    )


def suite():
    return [str(path) for path in collection.suite_files()]


def test_the_shipped_claims_stand_for_their_name_alone(tmp_path):
    """What comes before and after it in the alphabet stays as it was typed."""
    args = ["a", SUITE, "superweight.suites", "tests"]
    expected = ["a", *suite(), "superweight.suites", "tests"]
    assert expected == collection.arguments(config(tmp_path, args=args))
    assert ["test_paper.py", "test_properties.py", "test_release.py"] == [
        path.name for path in collection.suite_files()
    ]


@pytest.mark.parametrize("folder", ["a", "zzz", "claims/beneath"])
def test_only_shipped_functions_are_tests_by_our_names(folder):
    """Those of a folder before it, behind it and beneath it are what their project calls them."""

    def test_own(): ...

    shipped = SimpleNamespace(path=collection.suite_directory() / "test_paper.py")
    other = SimpleNamespace(path=collection.suite_directory().parent / folder / "test_paper.py")
    for collector, name, marked in (
        (other, "test_own", False),
        (shipped, "check_own", False),
        (shipped, "test_own", True),
    ):
        collection.mark_as_tests(collector, name, test_own)
        assert marked is getattr(test_own, "__test__", False)
    collection.mark_as_tests(shipped, "test_value", 3)


@pytest.mark.parametrize("own", [None, "test_own.py", "own_test.py", "tests/", "test/"])
def test_a_model_alone_runs_the_shipped_claims_where_there_are_no_tests(tmp_path, own):
    """Not in a project: with tests or settings of its own, or where somebody said what to collect."""
    if own is not None:
        (tmp_path / own).mkdir() if own.endswith("/") else (tmp_path / own).touch()
    bare = {"folder": tmp_path, "args": [str(tmp_path)], "source": HERE}
    collected = collection.arguments(config(**bare, models=["m"]))
    assert (suite() if own is None else [str(tmp_path)]) == collected
    for other in (
        {"models": []},
        {"models": ["m"], "inipath": tmp_path / "pytest.ini"},
        {"models": ["m"], "source": pytest.Config.ArgsSource.ARGS},
    ):
        assert [str(tmp_path)] == collection.arguments(config(**(bare | other)))


@pytest.mark.parametrize("gpu", [False, True])
def test_a_run_of_no_named_model_takes_the_registry_s(gpu):
    """Those of the tier gpu only where a GPU is asked for; each has the markers of what it needs."""
    chosen = {param.id: param for param in plugin._parameters(config(mark="gpu" if gpu else ""))}
    assert {"tiny-planted", "tiny-plain", "tiny-tuned", "smollm2-135m-instruct-q4_1"} <= chosen.keys()
    assert gpu is ("mistralai/Mistral-7B-v0.1" in chosen)
    marks = {name: {mark.name for mark in param.marks} for name, param in chosen.items()}
    on_gpu = {"gpu", "slow"} if gpu else set()
    assert {"xdist_group"} | on_gpu == marks["tiny-planted"]
    assert {"xdist_group", "checkpoint"} | on_gpu == marks["smollm2-135m-instruct-q4_1"]
    if gpu:
        assert {"xdist_group", "checkpoint", "gpu", "slow"} == marks["mistralai/Mistral-7B-v0.1"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"mark": "gpu"}, True),
        ({"mark": "slow and gpu"}, True),
        ({"mark": "not gpu"}, False),
        ({}, False),
        ({"mark": "gpu", "collect": True}, False),
        ({"mark": "gpu", "told": {}}, False),
    ],
)
def test_the_header_names_the_gpus_once_and_where_they_are_used(monkeypatch, asked, said):
    """Not when tests are only listed, nor by every worker."""
    monkeypatch.setattr(xdist, "present", lambda: ["a GPU"])
    monkeypatch.setattr(xdist, "described", lambda devices: f"{len(devices)} here")
    assert (["super weights: 1 here"] if said else []) == xdist.header(config(**asked))


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("outnumbered", [None, False, True])
def test_a_model_is_a_group_unless_workers_outnumber_gpus(on_gpu, outnumbered):
    """Then all that needs a GPU is one group."""
    told = None if outnumbered is None else {"superweight_devices_outnumbered": outnumbered}
    name = xdist.group(config(told=told), "tiny", on_gpu=on_gpu)
    assert ("gpu" if on_gpu and outnumbered else "tiny") == name


@pytest.mark.parametrize(("workers", "devices", "outnumbered"), [(2, 1, True), (2, 2, False), (1, 4, False)])
def test_a_worker_is_told_its_gpus_and_whether_there_are_enough(monkeypatch, workers, devices, outnumbered):
    """Only in a run that asks for GPUs."""
    monkeypatch.setattr(xdist, "callers_devices", lambda: [str(number) for number in range(devices)])
    node = SimpleNamespace(config=config(mark="gpu"), workerinput={"workercount": workers, "workerid": "gw0"})
    xdist.tell(node)
    assert outnumbered is node.workerinput["superweight_devices_outnumbered"]
    assert "0" == node.workerinput["superweight_devices"][0]
    node = SimpleNamespace(config=config(), workerinput={"workercount": workers, "workerid": "gw0"})
    xdist.tell(node)
    assert {"workercount", "workerid"} == node.workerinput.keys()


class Collected:
    """A test that searches for counterexamples or does not, of a model that was downloaded or was not."""

    def __init__(self, searches, checkpoint):
        self.fixturenames = ("sw_budget",) if searches else ()
        self.marks = [pytest.mark.checkpoint.mark] if checkpoint else []

    def get_closest_marker(self, name):
        return next((mark for mark in self.marks if mark.name == name), None)

    def add_marker(self, mark):
        self.marks.append(mark.mark)


@pytest.mark.parametrize("named", [False, True])
def test_a_real_model_is_searched_in_long_runs_or_by_name(monkeypatch, named):
    """Its properties are slow where nobody named a model; those of a tiny one never are."""
    monkeypatch.setattr(plugin.models, "named_models", lambda _: ("a model",) if named else ())
    monkeypatch.setattr(plugin.groups, "hand_over", lambda *_: None)
    items = [Collected(*kind) for kind in ((True, True), (True, False), (False, True), (False, False))]
    run = config()
    run.option.sw_base = None
    for _ in plugin.pytest_collection_modifyitems(run, list(items)):
        pass
    slow = [item.get_closest_marker("slow") is not None for item in items]
    assert [not named, False, False, False] == slow


def test_options_are_read_as_they_are_meant(tmp_path, monkeypatch):
    """A number of examples from 1 on; addresses and names as they are, paths from where the run began."""
    monkeypatch.chdir(tmp_path)
    assert [1, 25] == [options._positive(text) for text in ("1", "25")]
    for text in ("0", "-1", "", "many", "1.5", "²", "٣"):
        with pytest.raises(argparse.ArgumentTypeError, match="give 1 or more"):
            options._positive(text)
    assert "https://host/index.json" == options._registry("https://host/index.json")
    assert str(tmp_path / "index.json") == options._registry("index.json")
    assert ["builtin", "wikitext2", str(tmp_path / "own")] == [
        options._corpus(text) for text in ("builtin", "wikitext2", "own")
    ]
    assert 90.0 == options._duration("90s")
    with pytest.raises(argparse.ArgumentTypeError, match="give 60s, 10min or 1h"):
        options._duration("soon")
