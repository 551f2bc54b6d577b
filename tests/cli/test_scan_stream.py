"""What ``superweight scan`` does of an address, and with --stream."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.range_server import Network, folder, serving
from superweight.checkpoints.tensors import ranges
from superweight.cli.main import main
from superweight.core.resources import fixtures_directory
from superweight.detection import stopping_rule
from superweight.model import main_memory

REPOSITORY = Path(__file__).parents[2]
PLANTED = fixtures_directory() / "checkpoints" / "tiny-planted"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(ranges, "FIRST_WAIT", 0.01)


@pytest.fixture
def superweight():
    return lambda *words: CliRunner().invoke(main, ["scan", *map(str, words)])


@pytest.fixture
def network():
    network = Network()
    with serving(folder(PLANTED), network) as server:
        yield server


def test_an_address_is_scanned_without_downloading_it(superweight, network, tmp_path, monkeypatch):
    """The same scalar, value and activation as the loaded model's; and what it cost."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loaded = json.loads(superweight("tiny-planted", "--no-effect", "--json", "-").stdout)
    result = superweight(network.address, "--json", "-")
    assert 0 == result.exit_code, result.output
    found = json.loads(result.stdout)
    ranked = [{**weight, "rank": None} for weight in loaded["super_weights"]]
    assert ranked == [{**weight, "rank": None} for weight in found["super_weights"]]
    assert loaded["super_activations"] == found["super_activations"]
    assert {"blocks": 4, "of": 4, "provisional": False} == found["depth"]
    cost, file = found["cost"], (PLANTED / "model.safetensors").stat().st_size
    # The tokenizer and the header are not weights, and come as well.
    assert network.network.sent == cost["bytes"]
    assert cost["bytes_total"] < file
    assert not (tmp_path / "cache").exists()


def test_what_is_settled_early_is_called_provisional(superweight, network, monkeypatch):
    """And says what a full pass would add; --full goes to the end."""
    monkeypatch.setattr(stopping_rule, "MASSIVE", 100.0)
    monkeypatch.setattr(stopping_rule, "CARRIES", 1)
    result = superweight(network.address)
    assert "provisional: seen through block 2 of 4; a full pass (--full) would add" in result.stdout
    assert "blocks 1 to at least 2" in result.stdout
    asked = [line for line in network.network.asked if "model.safetensors" in line]
    whole = superweight(network.address, "--full")
    assert "provisional" not in whole.stdout
    assert len(network.network.asked) - len(asked) > len(asked)


def test_a_number_of_blocks_ends_the_pass(superweight):
    """What the others make is not known, and is said."""
    result = superweight(PLANTED, "--stream", "--blocks", "2")
    assert 0 == result.exit_code, result.output
    assert "not settled: seen through block 1 of 4; what the other blocks make is not known" in result.stdout
    document = json.loads(superweight(PLANTED, "--stream", "--blocks", "2", "--json", "-").stdout)
    assert {"blocks": 2, "of": 4, "provisional": False} == document["depth"]
    assert 2 == document["cost"]["blocks_entered"]


def test_a_model_that_does_not_fit_into_memory_is_run_block_by_block(superweight, monkeypatch):
    """A line says why; with options that a stream does not take the model is refused."""
    monkeypatch.setattr(main_memory, "free_memory", lambda: 10**5)
    result = superweight(PLANTED, "--json", "-")
    assert 0 == result.exit_code, result.output
    found = json.loads(result.stdout)
    assert 4 == found["cost"]["blocks_entered"]
    assert [1] == [weight["layer"] for weight in found["super_weights"]]
    assert "main memory are free; superweight scan runs such a model block by block" in result.stderr
    refused = superweight(PLANTED, "--trust", "remote-code")
    assert 4 == refused.exit_code
    assert "main memory are free" in refused.stderr.splitlines()[-1]


def test_a_plan_reads_headers_alone(superweight, network):
    """What each block takes, and what all do."""
    result = superweight(network.address, "--plan", "--json", "-")
    assert 0 == result.exit_code, result.output
    plan = json.loads(result.stdout)
    assert 4 == len(plan["blocks"])
    assert plan["bytes_at_most"] == sum(block["bytes"] for block in plan["blocks"]) < plan["bytes"]
    sent = network.network.sent
    spent = json.loads(superweight(network.address, "--json", "-").stdout)["cost"]["bytes"]
    assert spent > sum(block["bytes"] for block in plan["blocks"])
    weights = [line for line in network.network.asked if "model.safetensors " in line]
    assert sent < spent < plan["bytes"] + sent
    assert len(weights) > 2
    lines = superweight(network.address, "--plan").stdout
    assert "blocks 0 to 3: " in lines
    assert "settled at the earliest after 3 blocks: " in lines
    assert "memory: about 0.6 GB, for two blocks" in lines


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("tiny-planted", "--full"), "add --stream"),
        (("tiny-planted", "--plan"), "add --stream"),
        (("tiny-planted", "--stream", "--trust", "pickle"), "neither pickled weights nor code are read"),
        (("tiny-planted", "--stream", "--device", "cuda"), "runs on the CPU, and --device cuda was given"),
        (("http://127.0.0.1:9/m", "--plan"), "cannot read http://127.0.0.1:9/m"),
    ],
)
def test_what_cannot_be_streamed_is_refused_in_a_line(superweight, words, line):
    """What is wrong, and what to do."""
    result = superweight(*words)
    assert 4 == result.exit_code, result.output
    assert line in result.stderr.splitlines()[-1]


def test_a_server_that_ignores_ranges_is_refused_before_it_sends_the_model(superweight, network):
    """Nothing was asked for that could have brought it whole."""
    network.network.ranges, network.network.rate = False, 1e6
    result = superweight(network.address)
    assert 4 == result.exit_code
    assert "ignores range requests" in result.stderr
    size = (PLANTED / "model.safetensors").stat().st_size
    assert network.network.sent < size


def test_a_busy_network_that_drops_connections_changes_nothing(superweight, network, monkeypatch):
    """The same finding, and the bytes that came twice are those that were lost."""
    monkeypatch.setattr(ranges, "FIRST_WAIT", 0.01)
    quiet = json.loads(superweight(network.address, "--json", "-").stdout)
    network.network.drop = [700, 3000, 11, 5000]
    network.network.refuse = []
    found = json.loads(superweight(network.address, "--json", "-").stdout)
    assert [] == network.network.drop
    assert quiet["super_weights"] == found["super_weights"]
    assert quiet["cost"]["bytes"] == found["cost"]["bytes"]


# Has all imported once, and runs each command in a child of its own.
NURSERY = """
import json, os, sys, tempfile
import superweight.claims.paper.location, superweight.cli.scan_stream, superweight.cli.scan_text
import superweight.detection.scan, superweight.model.streamed_model
from superweight.cli.main import main
for line in sys.stdin:
    given = json.loads(line)
    child = os.fork()
    if child == 0:
        os.environ.update(given["environment"])
        os.chdir(given["root"])
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the parent's answers go there
        tempfile.tempdir = None
        sys.argv = ["superweight", *given["words"]]
        main()
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Stopping(Network):
    """Sends no more than ``limit`` bytes until it is released, and says when they are sent."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit
        self.reached, self.released = threading.Event(), threading.Event()

    def pass_on(self, count):
        super().pass_on(count)
        if self.sent >= self.limit:
            self.reached.set()
            self.released.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_at_any_byte_leaves_nothing_behind(stop, tmp_path):
    """Twenty rounds: stopped when so many bytes had come, no file lies anywhere, and no result."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "harness"), "PYTHONDONTWRITEBYTECODE": "1"}
    nursery = subprocess.Popen(
        [sys.executable, "-c", NURSERY],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    moments = random.Random(stop)  # noqa: S311  # no secret, and repeatable
    with nursery:
        for number in range(21):
            root = tmp_path / str(number)
            (root / "tmp").mkdir(parents=True)
            # The last one is left alone: it shows that the others would have come to an end.
            network = Stopping(moments.randrange(1, 380_000) if number < 20 else 10**9)
            with serving(folder(PLANTED), network) as server:
                places = {"XDG_CACHE_HOME": "cache", "HF_HOME": "hf", "TMPDIR": "tmp"}
                order = {
                    "environment": {name: str(root / place) for name, place in places.items()},
                    "root": str(root),
                    "words": ["scan", server.address, "--json", str(root / "scan.json")],
                }
                print(json.dumps(order), file=nursery.stdin, flush=True)
                child = int(nursery.stdout.readline())
                if number < 20:
                    assert network.reached.wait(120)
                    os.kill(child, stop)
                    threading.Timer(0.2, network.released.set).start()
                status = os.waitstatus_to_exitcode(int(nursery.stdout.readline()))
            left = [path for path in root.rglob("*") if path.is_file()]
            if number < 20:
                assert status in (-stop, 130)
                assert [] == left
            else:
                assert (0, [root / "scan.json"]) == (status, left)
