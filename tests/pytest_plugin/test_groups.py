"""The groups of xdist reach its controller under any pytest: one worker loads a model once."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from superweight.pytest_plugin import groups
from superweight.pytest_plugin.xdist import keep_together

TESTS = """
import pytest

@pytest.mark.parametrize("number", range(4))
@pytest.mark.xdist_group("one")
def test_one(number): pass

@pytest.mark.parametrize("number", range(4))
@pytest.mark.xdist_group(name="two")
def test_two(number): pass

@pytest.mark.parametrize("number", range(4))
def test_alone(number): pass
"""
# As pytest from 9.2 on: what xdist writes behind an id does not get there.
IDS_CANNOT_BE_WRITTEN = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    for item in items:
        item._nodeid = getattr(item, "_nodeid", item.nodeid).partition("@")[0]
"""


def workers(pytester, *arguments):
    """Return which workers ran each test function."""
    pytester.makepyfile(TESTS)
    pytester.makeconftest(IDS_CANNOT_BE_WRITTEN)
    result = pytester.runpytest_subprocess(
        "-v", "-n2", "--dist", "loadgroup", "-p", "no:cacheprovider", *arguments
    )
    found = {}
    for worker, name in re.findall(r"\[(gw\d)\].*PASSED.*?::(\w+)\[", result.stdout.str()):
        found.setdefault(name, set()).add(worker)
    assert 12 == result.parseoutcomes()["passed"]
    return found


@pytest.mark.slow
def test_a_group_stays_on_one_worker_where_ids_cannot_carry_it(pytester):
    """With the plugin each group is on one worker; without it both are spread, as xdist alone leaves them."""
    held = workers(pytester)
    assert (1, 1) == (len(held["test_one"]), len(held["test_two"]))
    alone = workers(pytester, "-p", "no:superweight")
    assert 2 < len(alone["test_one"]) + len(alone["test_two"])


def item(name, *marks):
    return SimpleNamespace(nodeid=name, iter_markers=lambda _: [mark.mark for mark in marks])


def config(**values):
    return SimpleNamespace(stash=pytest.Stash(), getvalue=values.get, add_cleanup=lambda undo: None)


def test_a_worker_hands_over_its_groups_and_the_scheduler_knows_them(tmp_path):
    """What a worker wrote is the scope of a test; a test without a group is its own."""
    controller = config(dist="loadgroup", tx=["2*popen"], maxschedchunk=None)
    node = SimpleNamespace(
        config=controller, workerinput={}, gateway=SimpleNamespace(spec=SimpleNamespace(popen=True))
    )
    groups.tell(node)
    worker = SimpleNamespace(workerinput={**node.workerinput, "workerid": "gw0"})
    group = pytest.mark.xdist_group
    groups.hand_over(worker, [item("a", group("one")), item("b"), item("c", group("y"), group(name="x"))])
    scheduler = groups.scheduler(controller, None)
    assert ["one", "b", "x_y"] == [scheduler._split_scope(name) for name in "abc"]


def test_other_ways_of_distribution_are_left_to_xdist():
    """No folder, no scheduler of ours."""
    controller = config(dist="load")
    node = SimpleNamespace(config=controller, workerinput={})
    groups.tell(node)
    assert ({}, None) == (node.workerinput, groups.scheduler(controller, None))


class Collected:
    """A test with marks and fixtures, as pytest has collected it."""

    def __init__(self, *marks, searches=False):
        self.marks = [mark.mark for mark in marks]
        self.fixturenames = ("sw_budget",) if searches else ("sw_entry",)

    def get_closest_marker(self, name):
        return next((mark for mark in self.marks if mark.name == name), None)

    def add_marker(self, mark):
        self.marks.append(mark.mark)

    @property
    def group(self):
        mark = self.get_closest_marker("xdist_group")
        return mark and mark.args[0]


def test_gpu_tests_and_searches_are_kept_together():
    """A GPU's tests in one group unless they are in one; on a CPU searches are a group of their own."""
    gpu, own = pytest.mark.gpu, pytest.mark.xdist_group("own")
    items = [Collected(gpu), Collected(gpu, own), Collected(gpu, searches=True)]
    items += [Collected(searches=True), Collected(own), Collected()]
    keep_together(items)
    assert ["gpu", "own", "gpu", "properties", "own", None] == [item.group for item in items]
