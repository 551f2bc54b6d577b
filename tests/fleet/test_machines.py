"""A fleet on machines with addresses of their own: what one of them was doing is done by the others.

Network namespaces of Linux stand in for machines, each with an address, a host name and a Ray node, behind
one switch. Root may make them; FLEET_NETWORK is the first three numbers of their addresses.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs Ray: pip install '.[fleet]'")
pytest.importorskip("pyarrow", reason="needs pyarrow: pip install '.[fleet]'")

pytestmark = pytest.mark.slow

NETWORK = os.environ.get("FLEET_NETWORK", "10.77.0")
HEAD, WORKER, DRIVER = 2, 3, 4
_NUMBERS = itertools.count()
IP = shutil.which("ip") or ""
RAY = Path(sys.executable).with_name("ray")
SUPERWEIGHT = Path(sys.executable).with_name("superweight")
REPORTS = Path(__file__).parents[2] / "docs" / "gallery"
MODELS = 60
FLEET = '[options]\nmode = "report"\npages = false\n[[models]]\nmodel = "reports/*.json"\n'
# Ray looks whether a connection still answers every five minutes, unless it is told otherwise.
QUICK = {"RAY_grpc_client_keepalive_time_ms": "5000", "RAY_grpc_client_keepalive_timeout_ms": "5000"}


def ip(*words):
    """Run one command of iproute2."""
    subprocess.run([IP, *map(str, words)], check=True, capture_output=True)


@pytest.fixture
def switch():
    """A switch that machines are connected to, gone at the end with all that ran on them."""
    if os.geteuid() or not (IP and shutil.which("unshare")):
        pytest.skip("only root makes network namespaces, by iproute2")
    # What is deleted is gone a moment later, so that no name is used twice.
    name = f"sw{os.getpid() % 10000}{next(_NUMBERS)}"
    with ExitStack() as undo:
        try:
            ip("link", "add", name, "type", "bridge")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        undo.callback(ip, "link", "del", name)
        ip("link", "set", name, "up")
        for number in (HEAD, WORKER, DRIVER):
            undo.enter_context(_machine(name, number))
        yield name


@contextmanager
def _machine(switch, number):
    own = f"{switch}m{number}"
    ip("netns", "add", own)
    try:
        ip("link", "add", own, "type", "veth", "peer", "name", "eth0", "netns", own)
        ip("link", "set", own, "master", switch)
        ip("link", "set", own, "up")
        ip("-n", own, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            ip("-n", own, "link", "set", device, "up")
        yield
    finally:
        kill_all(own)
        ip("link", "del", own)
        ip("netns", "del", own)


def kill_all(machine):
    """End all that runs on a machine."""
    listed = [IP, "netns", "pids", machine]
    while inside := subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split():
        for process in inside:
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)


@pytest.fixture
def on(switch, tmp_path):
    """Start a command on one of the machines, in a home of its own."""
    token = secrets.token_hex(32)

    def start(number, *words):
        home = tmp_path / f"machine{number}"
        home.mkdir(exist_ok=True)
        own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "no_proxy": "*"}
        ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
        command = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', f"machine{number}"]
        return subprocess.Popen(
            [IP, "netns", "exec", f"{switch}m{number}", *command, *map(str, words)],
            cwd=home,
            env={**os.environ, **own, **ray, **QUICK},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture
def cluster(on):
    """A head and one more node, a core each; the address of the head."""
    shared = ("--num-cpus=1", "--object-store-memory=104857600")
    opened = ("--head", "--port=6379", "--ray-client-server-port=10001", "--include-dashboard=false")
    joined = (f"--address={NETWORK}.{HEAD}:6379",)
    # A socket's path has room for little.
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as short:
        for number, words in ((HEAD, (*opened, f"--temp-dir={short}")), (WORKER, joined)):
            begun = on(number, RAY, "start", *words, f"--node-ip-address={NETWORK}.{number}", *shared)
            said, _ = begun.communicate(timeout=120)
            assert 0 == begun.returncode, said
        yield f"{NETWORK}.{HEAD}"


@pytest.fixture
def fleet(tmp_path):
    """A fleet of stored reports."""
    stored = sorted(REPORTS.glob("*.json"))
    (tmp_path / "reports").mkdir()
    for place in range(MODELS):
        shutil.copyfile(stored[place % len(stored)], tmp_path / "reports" / f"{place:04}.json")
    (tmp_path / "fleet.toml").write_text(FLEET, encoding="utf-8")
    return tmp_path / "fleet.toml"


def kept(out):
    """The rows that are kept so far."""
    return list(out.glob("models/*/row.json"))


def wait_for(out, rows):
    ends = time.monotonic() + 120
    while time.monotonic() < ends and len(kept(out)) < rows:
        time.sleep(0.01)


@pytest.mark.parametrize("protocol", ["ray", "gcs"])
def test_what_a_machine_that_is_cut_off_was_doing_is_done_by_another(
    protocol, on, cluster, switch, fleet, tmp_path
):
    """Its cable is pulled: no connection is closed, and nothing says good-bye. Every model has its row."""
    out = tmp_path / "out"
    address = f"ray://{cluster}:10001" if protocol == "ray" else f"{cluster}:6379"
    # A driver that is no client is part of the cluster, and runs where a node does.
    machine = DRIVER if protocol == "ray" else HEAD
    run = on(machine, SUPERWEIGHT, "fleet", fleet, "--out", out, "--address", address)
    wait_for(out, MODELS // 6)
    ip("link", "set", f"{switch}m{WORKER}", "down")
    said, _ = run.communicate(timeout=240)
    assert run.returncode in (0, 1), said
    rows = json.loads((out / "index.json").read_text(encoding="utf-8"))["models"]
    assert MODELS == len({row["id"] for row in rows})
    assert {"as expected", "not as expected"} >= {row["status"] for row in rows}
    assert MODELS == len(list(out.glob("models/*/report.json")))


@pytest.mark.parametrize("lost", ["ends", "is cut off"])
def test_a_head_that_is_lost_ends_the_run_in_a_line(lost, on, cluster, switch, fleet, tmp_path):
    """The driver says that the cluster is gone, and what was kept is not done again."""
    out = tmp_path / "out"
    run = on(DRIVER, SUPERWEIGHT, "fleet", fleet, "--out", out, "--address", f"ray://{cluster}:10001")
    wait_for(out, MODELS // 6)
    if lost == "ends":
        kill_all(f"{switch}m{HEAD}")
    else:
        ip("link", "set", f"{switch}m{HEAD}", "down")
    said, _ = run.communicate(timeout=240)
    assert 4 == run.returncode, said
    assert said.splitlines()[-1].startswith(
        f"superweight: the Ray cluster at ray://{cluster}:10001 does not answer any more"
    ), said
    assert "Traceback" not in said
    assert MODELS // 6 <= len(kept(out)) < MODELS
