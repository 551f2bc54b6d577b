"""Under xdist, in any mode and order: the same verdicts, the same snapshots, one load of a model a worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as XML  # noqa: N814  # reads what pytest wrote a moment ago

import pytest

CLAIMS = Path(__file__).parents[1] / "claims"
MODELS = ("tiny-planted", "tiny-plain", "tiny-tuned")
MODES = {
    "-n 2": ("-n", "2"),
    "-n 4": ("-n", "4"),
    "loadgroup": ("-n", "4", "--dist", "loadgroup"),
    "worksteal": ("-n", "4", "--dist", "worksteal"),
    "loadfile": ("-n", "2", "--dist", "loadfile"),
}
REPEATS = 4
# Shuffles the tests by the run's number, and notes each load with the process that does it.
CONFTEST = """
import os, random
from itertools import pairwise
from pathlib import Path
import pytest
import superweight.model.loading

load = superweight.model.loading.load

def noted(entry, **options):
    with Path(os.environ["LOADS"]).open("a") as file:
        file.write(f"{os.getpid()} {entry.name}\\n")
    return load(entry, **options)

superweight.model.loading.load = noted

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    random.Random(os.environ["ORDER"]).shuffle(items)
"""


@pytest.fixture
def lay_out(tmp_path):
    """Lay out a project of a user's own, with or without its baselines."""

    def lay_out(name, *, baselines=True):
        root = tmp_path / name
        root.mkdir()
        shutil.copy(CLAIMS / "test_paper.py", root)
        (root / "conftest.py").write_text(CONFTEST)
        (root / "pytest.ini").write_text("[pytest]\n")
        for model in MODELS if baselines else ():
            shutil.copytree(CLAIMS / "baselines" / model, root / "baselines" / model)
        return root

    return lay_out


def run(root, *options, order="0", models=MODELS):
    """Run the claims in a process of its own; return its exit code and the status of every test."""
    environment = {**os.environ, "LOADS": str(root / "loads"), "ORDER": order, "OMP_NUM_THREADS": "1"}
    environment.pop("CI", None)
    named = [part for model in models for part in ("--sw-model", model)]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", "out.xml"]
    done = subprocess.run(
        [*words, *named, *options, "test_paper.py"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    statuses = {}
    if (root / "out.xml").exists():
        for case in XML.parse(root / "out.xml").iter("testcase"):  # noqa: S314  # as above
            properties = {item.get("name"): item.get("value") for item in case.iter("property")}
            row = json.loads(properties.get("superweight") or "{}")
            # Under loadgroup xdist writes the group behind the name.
            statuses[case.get("name").partition("@")[0]] = row.get("status")
    return done, statuses


@pytest.mark.slow
def test_every_mode_and_order_gives_the_same_verdicts(lay_out, record_property):
    """Five modes, each in four random orders: twenty runs, and one load of a model a worker."""
    done, plainly = run(lay_out("plainly"))
    assert 0 == done.returncode, done.stdout
    assert 14 * len(MODELS) == len(plainly)
    for mode, options in MODES.items():
        for repeat in range(REPEATS):
            root = lay_out(f"{mode}-{repeat}")
            done, statuses = run(root, *options, order=f"{mode}-{repeat}")
            assert 0 == done.returncode, done.stdout + done.stderr
            assert plainly == statuses
            loads = Counter((root / "loads").read_text().splitlines())
            assert {} == {load: count for load, count in loads.items() if count > 1}
            shutil.rmtree(root)
    record_property("runs", len(MODES) * REPEATS)


@pytest.mark.slow
def test_four_workers_write_every_baseline(lay_out):
    """What --snapshot-update leaves is what one process leaves, file by file."""
    kept = {}
    for name, options in {"alone": (), "four": ("-n", "4")}.items():
        root = lay_out(name, baselines=False)
        done, _ = run(root, "--snapshot-update", *options)
        assert 0 == done.returncode, done.stdout
        folder = root / "baselines"
        kept[name] = {
            str(path.relative_to(folder)): {**json.loads(path.read_text()), "provenance": None}
            for path in folder.rglob("*.json")
        }
    assert 14 * len(MODELS) == len(kept["alone"])
    assert kept["alone"].keys() == kept["four"].keys()
    alone, four = ({name: row["status"] for name, row in kept[way].items()} for way in ("alone", "four"))
    assert alone == four


@pytest.mark.slow
def test_a_killed_worker_turns_the_run_red(lay_out):
    """A test that was under way counts as failed, and the others are judged by a new worker."""
    root = lay_out("killed")
    (root / "test_killed.py").write_text(
        f"import os, signal\ndef test_dies(subject):\n    os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    )
    done, _ = run(root, "-n", "2", "test_killed.py", models=("tiny-plain",))
    assert 1 == done.returncode, done.stdout
    assert "crashed" in done.stdout
    assert "14 passed" in done.stdout


def test_one_models_tests_stay_together_in_any_order(project):
    """A plugin that shuffles does not make a model be loaded twice; tests of no model keep their place."""
    project.makeconftest(
        "import pytest\n"
        "@pytest.hookimpl(trylast=True)\n"
        "def pytest_collection_modifyitems(items):\n"
        "    items[:] = [*items[1::2], *items[::2]]\n"
    )
    project.makepyfile(test_other="def test_of_no_model():\n    pass\n")
    named = [part for model in MODELS for part in ("--sw-model", model)]
    result = project.runpytest_inprocess("--collect-only", "-q", *named)
    listed = [line for line in result.outlines if "::" in line]
    models = [line.partition("[")[2].strip("]") for line in listed]
    changes = sum(one != other for one, other in pairwise([name for name in models if name]))
    assert len(MODELS) - 1 == changes
    assert 14 * len(MODELS) + 1 == len(models)
