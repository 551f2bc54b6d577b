"""Workers, nodes and the driver are killed in the middle of a run: nothing is lost, nothing is done twice.

Each round runs stored reports, which take milliseconds, so that a kill hits some of them in flight.
FLEET_ROUNDS sets how many rounds there are.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs Ray: pip install '.[fleet]'")
pytest.importorskip("pyarrow", reason="needs pyarrow: pip install '.[fleet]'")

from superweight.fleet import run
from superweight.fleet.cluster import SETTINGS

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("FLEET_ROUNDS", "20"))
REPORTS = Path(__file__).parents[2] / "docs" / "gallery"
MODELS = 200
FLEET = '[options]\nmode = "report"\npages = false\n[[models]]\nmodel = "reports/*.json"\n'


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A fleet of stored reports, two of them damaged ones."""
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "reports").mkdir()
    stored = sorted(REPORTS.glob("*.json"))
    for place in range(MODELS):
        shutil.copyfile(stored[place % len(stored)], folder / "reports" / f"{place:04}.json")
    (folder / "fleet.toml").write_text(FLEET, encoding="utf-8")
    return folder / "fleet.toml"


def rows_of(out):
    return json.loads((out / "index.json").read_text(encoding="utf-8"))["models"]


def hold_whole(out):
    """Every model has one row, judged as its report says, and a report of its own."""
    rows = rows_of(out)
    assert MODELS == len(rows) == len({row["id"] for row in rows})
    assert MODELS == len({row["model"] for row in rows})
    for row in rows:
        assert row["status"] in ("as expected", "not as expected"), row
    assert MODELS == len(list(out.glob("models/*/row.json")))
    assert MODELS == len(list(out.glob("models/*/report.json")))
    assert [] == list(out.rglob("*.tmp"))
    assert not (out / "running.json").exists()


def while_running(act, out, at):
    """Start ``act`` in a thread once so many rows are kept; return the thread."""

    def wait():
        ends = time.monotonic() + 120
        while time.monotonic() < ends and len(list(out.glob("models/*/row.json"))) < at:
            time.sleep(0.005)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def workers():
    """The processes of this machine in which Ray runs a task of ours at the moment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        if words.startswith(b"ray::reports"):  # the task has the name of its model
            found.append(int(place.name))
    return found


@pytest.fixture(scope="module")
def local():
    """A Ray on this machine for all rounds."""
    import ray

    os.environ.update(SETTINGS)
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_workers_are_killed(fleet, local, tmp_path, number):
    """Three times in a run, a worker in the middle of a task: Ray starts that task again."""
    chance, killed = random.Random(number), []  # noqa: S311  # a round that can be repeated

    def kill():
        for _ in range(200):
            for pid in workers()[:1]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                killed.append(pid)
                return
            time.sleep(0.005)

    out = tmp_path / "out"
    moments = sorted(chance.sample(range(5, MODELS - 20), 3))
    threads = [while_running(kill, out, at) for at in moments]
    result = run(fleet, out)
    for thread in threads:
        thread.join(60)
    hold_whole(out)
    assert MODELS == sum(result.counts.values())
    assert killed
    # What was kept just before its worker died is found done by the task that is started again.
    assert result.reused <= len(killed)


@pytest.fixture(scope="module")
def two_nodes():
    """A cluster of two nodes on this machine: the head, and one that is lost and comes back."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ.update(SETTINGS)
    ray.shutdown()
    size = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, connect=False, head_node_args=size)
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_node_is_killed(fleet, two_nodes, tmp_path, number):
    """Its tasks are started again on the other node."""
    node = two_nodes.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    two_nodes.wait_for_nodes()
    lost = []

    def lose():
        two_nodes.remove_node(node, allow_graceful=False)
        lost.append(node)

    out = tmp_path / "out"
    at = random.Random(number).randrange(20, MODELS - 40)  # noqa: S311  # the same
    thread = while_running(lose, out, at)
    result = run(fleet, out)
    thread.join(120)
    assert lost
    hold_whole(out)
    assert MODELS == sum(result.counts.values())
    assert result.reused <= 4


@pytest.mark.parametrize("number", range(ROUNDS))
def test_the_driver_is_killed(fleet, tmp_path, number):
    """What it kept is not done again by the next one, and the rest is done."""
    out = tmp_path / "out"
    program = [sys.executable, "-c", "from superweight.cli.main import main; main()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    first = subprocess.Popen(
        [*program, "fleet", str(fleet), "--out", str(out)],
        env=environment,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    at = random.Random(number).randrange(10, MODELS - 40)  # noqa: S311  # the same
    while_running(lambda: os.kill(first.pid, signal.SIGKILL), out, at).join(150)
    assert -signal.SIGKILL == first.wait(60)
    assert not (out / "index.json").exists()
    _until_still(out)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("models/*/row.json")}
    assert at <= len(kept) < MODELS
    again = subprocess.run(
        [*program, "fleet", str(fleet), "--out", str(out)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 1 == again.returncode, again.stderr  # some of the reports are of damaged releases
    assert f"; {len(kept)} were done before" in again.stdout
    hold_whole(out)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def _until_still(out):
    """Wait until the workers of a driver that is gone have ended: none keeps another row."""
    count = -1
    while count != (now := len(list(out.glob("models/*/row.json")))):
        count = now
        time.sleep(3)
