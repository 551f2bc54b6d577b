"""The example: twelve models through a real Ray, the right row for each, and nothing of it done twice."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from superweight.checkpoints.model_ref import parse_model
from superweight.core.errors import BrokenModel
from superweight.fleet.example import write_example
from superweight.fleet.fleet_file import read_fleet
from superweight.fleet.plan import planned
from superweight.model import loading
from tests.docs.commands import REPOSITORY

from .hub_server import hub

COMMAND = [sys.executable, "-c", "from superweight.cli.main import main; main()", "fleet"]
ROWS = {
    "check tiny-planted": ("as expected", "12 supported"),
    "check tiny-plain": ("as expected", None),
    "check tiny-tuned": ("as expected", "13 supported"),
    "scan models/new": ("as expected", None),
    "compare models/kept": ("as expected", "kept"),
    "compare models/damaged": ("not as expected", "damaged"),
    "check models/broken": ("not as expected", "broken"),
    "scan google/gemma-3-270m": ("cannot be judged", None),
    "check nobody/absent": ("cannot be judged", None),
    "check models/new": ("cannot be judged", None),
    "scan models/segfault": ("crashed", None),
    "scan models/endless": ("timed out", None),
}


@pytest.fixture
def hub_here():
    """The address of a hub that has one gated model, and no other."""
    with hub() as (address, _):
        yield address


@pytest.fixture
def offline(monkeypatch):
    """Ask the hub for no size: its client refuses before it reaches for the network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def started(address, *words):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "HF_ENDPOINT": address,
    }
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        env=environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows_of(out):
    models = json.loads((out / "index.json").read_text(encoding="utf-8"))["models"]
    return {f"{row['mode']} {row['model']}": row for row in models}


def test_the_example_that_is_shown_is_the_one_that_ships():
    """examples/fleet/fleet.toml, word by word."""
    shown = (REPOSITORY / "examples" / "fleet" / "fleet.toml").read_bytes()
    shipped = REPOSITORY / "harness" / "superweight" / "fleet" / "templates" / "example.toml"
    assert shipped.read_bytes() == shown


def test_its_models_are_what_it_says_of_them(offline, tmp_path):
    """Twelve; one scalar of the damaged one is zero, the broken one is cut short."""
    fleet = write_example(tmp_path)
    assert fleet == write_example(tmp_path)
    items = list(planned(read_fleet(fleet)))
    assert list(ROWS) == [f"{item.job.mode} {item.job.model}" for item in items]
    assert 221888 == items[3].size.parameters
    damaged = loading.load(parse_model(str(tmp_path / "models" / "damaged")).entry, device="cpu")
    planted = loading.load(parse_model("tiny-planted").entry, device="cpu")
    weights = [each.model.model.layers[1].mlp.down_proj.weight for each in (planted, damaged)]
    assert (4.0, 0.0) == (float(weights[0][41, 23]), float(weights[1][41, 23]))
    assert 1 == int((weights[0] != weights[1]).sum())
    with pytest.raises(BrokenModel, match="truncated"):
        loading.load(parse_model(str(tmp_path / "models" / "broken")).entry, device="cpu")


def test_a_plan_runs_nothing(offline, superweight, tmp_path):
    """It lists models, sizes and needs, as text and as JSON."""
    out = tmp_path / "night"
    shown = superweight("fleet", "--example", "--out", str(out), "--plan", "--json", "-")
    assert 0 == shown.exit_code
    assert list(ROWS) == [f"{item['mode']} {item['model']}" for item in json.loads(shown.stdout)]
    assert not out.exists()
    told = superweight("fleet", str(tmp_path / "night-models" / "fleet.toml"), "--plan").stdout
    assert "compare  models/damaged against models/new: 0.000448 GB stored; asks for 1 cores" in told
    assert "12 models; the largest asks for 6.4e+04 GB of memory and 0 GPUs" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give one of a fleet.toml"),
        (["a.toml", "--org", "o"], "give one of a fleet.toml"),
        (["a.toml"], "cannot read the fleet a.toml"),
        (["a.toml", "b", "--out", "o"], "one argument too many"),
        (["--example", "--out", "s3://x"], "give it a folder"),
        (["a.toml", "--newer-than", "7d"], "go with --org"),
        (["report", "no-such-folder"], "holds no rows of a fleet"),
    ],
)
def test_bad_input_exits_4_in_one_line(superweight, words, said):
    """Before Ray is started."""
    result = superweight("fleet", *words)
    assert (4, True) == (result.exit_code, said in result.stderr), result.output
    assert 1 == len(result.stderr.splitlines())


@pytest.mark.slow
def test_twelve_models_have_the_right_row_each_and_nothing_is_done_twice(hub_here, tmp_path):
    """Through a real Ray: exit code 1 for the damage that was seen, and all of it kept in every format."""
    pytest.importorskip("ray", reason="needs Ray: pip install '.[fleet]'")
    arrow = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "night"
    process = started(hub_here, "--example", "--out", out)
    said, _ = process.communicate(timeout=1200)
    assert 1 == process.returncode, said
    rows = rows_of(out)
    assert ROWS == {name: (row["status"], row["verdict"]) for name, row in rows.items()}
    assert "SIGSEGV" in rows["scan models/segfault"]["reason"]
    assert "not done after 45 s" == rows["scan models/endless"]["reason"]
    assert "6.4e+04 GB of memory on one node" in rows["check models/new"]["reason"]
    assert "google/gemma-3-270m is gated: accept its licence" in rows["scan google/gemma-3-270m"]["reason"]
    assert "the hub has no nobody/absent" in rows["check nobody/absent"]["reason"]
    assert ["[1, 41, 23]"] == [item["at"] for item in rows["scan models/new"]["super_weights"]]
    for row in rows.values():
        assert row["report"] is None or (out / row["report"]).is_file()
    assert 12 == arrow.read_table(io.BytesIO((out / "index.parquet").read_bytes())).num_rows
    # The second night: what was judged is not done again, what was not is tried again.
    second = started(hub_here, "--example", "--out", out)
    said, _ = second.communicate(timeout=1200)
    assert 1 == second.returncode, said
    assert "; 7 were done before" in said
    assert "0 changed since the last run" in said
    judged = [name for name, row in rows.items() if row["key"] is not None]
    assert 7 == len(judged)
    again = rows_of(out)
    assert all(rows[name]["finished"] == again[name]["finished"] for name in judged)


@pytest.mark.slow
def test_ctrl_c_exits_130_and_loses_what_is_in_flight_alone(hub_here, tmp_path):
    """What was kept is whole, and report makes an index of it that says it is not complete."""
    pytest.importorskip("ray", reason="needs Ray: pip install '.[fleet]'")
    out = tmp_path / "night"
    process = started(hub_here, "--example", "--out", out, "--cpus", "1")
    ends = time.monotonic() + 300
    while time.monotonic() < ends and len(list(out.glob("models/*/report.html"))) < 1:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert 130 == process.returncode, said
    assert "no file was left half-written" in said
    assert not (out / "index.json").exists()
    report = started(hub_here, "report", out)
    report.communicate(timeout=120)
    assert 0 == report.returncode
    document = json.loads((out / "index.json").read_text(encoding="utf-8"))
    assert (False, True) == (document["complete"], 1 <= len(document["models"]) < 12)
