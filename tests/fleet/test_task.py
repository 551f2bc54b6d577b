"""One model's task: what is done is not done again, and what kills its process is its row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from superweight.checkpoints.model_ref import parse_model
from superweight.core.errors import BadInput
from superweight.fleet import hub_cache, task
from superweight.fleet.bases import base_of
from superweight.fleet.identity import key_of, pinned
from superweight.fleet.job import Job
from superweight.fleet.row import CANNOT_JUDGE, CRASHED, NOT_AS_EXPECTED, TIMED_OUT
from superweight.fleet.storage import Storage
from superweight.fleet.task import perform
from tests.helpers.checkpoint_files import copy_checkpoint, rewrite
from tests.helpers.planted_release import DOWN

REPORTS = Path(__file__).parents[2] / "docs" / "gallery"
# What a model's process may do instead of ending well.
ENDINGS = {
    "segfault": ("import ctypes\nctypes.string_at(0)\n", CRASHED, "ended by SIGSEGV"),
    "killed": ("import os\nos.kill(os.getpid(), 9)\n", CRASHED, "ended by SIGKILL, as where memory runs out"),
    "raises": ("raise RuntimeError('nobody foresaw it')\n", CRASHED, "RuntimeError: nobody foresaw it"),
    "silent": ("", CRASHED, "ended without a result"),
    "endless": ("while True:\n    pass\n", TIMED_OUT, "not done after 1 s"),
}


@pytest.fixture
def stored(tmp_path):
    """A job over a stored report, which needs no process."""
    (tmp_path / "report.json").write_bytes((REPORTS / "tiny-planted.json").read_bytes())
    return Job("report.json", "report", pages=False, folder=str(tmp_path))


def test_a_stored_report_becomes_a_row_and_is_not_done_again(stored, tmp_path):
    """With what the report says of the model; another content is another key."""
    out = str(tmp_path / "out")
    row, before = perform(stored, out)
    assert ("as expected", False) == (row.status, before)
    assert ("[1, 41, 23]", 41, "supported") == (
        row.super_weights[0].at,
        row.activation.channel,
        row.claims["C3"],
    )
    assert (row, True) == perform(stored, out)
    document = json.loads((tmp_path / "report.json").read_text())
    document["verdicts"][0] |= {"as_expected": False, "gaps": ["it moved"]}
    (tmp_path / "report.json").write_text(json.dumps(document))
    again, before = perform(stored, out)
    assert (NOT_AS_EXPECTED, False) == (again.status, before)
    assert again.key != row.key


def test_what_could_not_be_judged_is_tried_again(tmp_path):
    """A report that is none, a model that is nowhere: no key by which it would count as done."""
    (tmp_path / "report.json").write_text("{}")
    for job in (Job("report.json", "report", pages=False, folder=str(tmp_path)), Job("gone.json", "report")):
        for _ in range(2):
            row, before = perform(job, str(tmp_path / "out"))
            assert (CANNOT_JUDGE, None, False) == (row.status, row.key, before)


@pytest.mark.parametrize("name", ENDINGS)
def test_what_kills_a_process_is_the_row_of_its_model(tmp_path, monkeypatch, name):
    """A segfault, a kill, an error, silence, an endless loop: told in a line, with a log beside."""
    program, status, said = ENDINGS[name]
    (tmp_path / f"ending_{name}.py").write_text(program)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(task, "_CHILD", f"ending_{name}")
    row, _ = perform(Job("tiny-planted", timeout=1.0 if name == "endless" else 60.0), str(tmp_path / "out"))
    assert (status, None) == (row.status, row.key)
    assert said in row.reason
    assert (tmp_path / "out" / row.log).is_file()


def test_a_process_does_not_outlive_its_task(tmp_path):
    """The real process ends when the pipe to it does, whatever it is doing."""
    request = {"timeout": 600, "job": {"model": "tiny-planted"}, "row": {}, "source": None, "base": None}
    process = subprocess.Popen(
        [sys.executable, "-m", "superweight.fleet.child", str(tmp_path)], stdin=subprocess.PIPE
    )
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    time.sleep(0.5)
    assert process.poll() is None
    process.stdin.close()
    assert 1 == process.wait(30)
    assert [] == list(tmp_path.iterdir())


def test_a_key_is_of_weights_options_version_and_what_is_expected(tmp_path, monkeypatch):
    """Each of them makes another; what a run costs, and where files lie, does not."""
    folder = copy_checkpoint("tiny-planted", tmp_path / "one")
    other = copy_checkpoint("tiny-planted", tmp_path / "two")
    job = Job(str(folder), baselines=str(tmp_path / "none"))

    def key(job=job, folder=folder):
        return key_of(job, replace_name(pinned(parse_model(str(folder)).entry)), None)

    def replace_name(model):
        return replace(model, entry=replace(model.entry, name="m"))

    first = key()
    assert first == key(folder=other)
    assert first == key(replace(job, timeout=1.0, cpus=2.0, memory=5, folder="/x"))
    assert first != key(replace(job, dtype="bfloat16"))
    assert first != key(replace(job, expect="paper"))
    rewrite(other, lambda tensors: tensors[DOWN][41].__setitem__(23, 0.0))
    assert first != key(folder=other)
    monkeypatch.setattr("superweight.fleet.identity.__version__", "99")
    assert first != key()


def test_baselines_are_part_of_the_key(tmp_path):
    """A baseline that was committed since lets the model be judged anew."""
    folder = copy_checkpoint("tiny-planted", tmp_path / "model")
    job, model = Job(str(folder), baselines=str(tmp_path)), pinned(parse_model(str(folder)).entry)
    first = key_of(job, model, None)
    from superweight.claims.baselines import baseline_path

    path = baseline_path(tmp_path, model.entry.name, "cpu", "float32", "C1")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert first != key_of(job, model, None)


def test_a_base_is_given_or_found_in_the_registry_or_on_the_card(tmp_path, refusal):
    """And where neither names one, that is said."""
    folder = copy_checkpoint("tiny-planted", tmp_path / "model")
    entry = parse_model(str(folder)).entry
    (folder / "README.md").write_text("---\nbase_model:\n- org/base\n---\n# A card\n")
    assert "org/base" == base_of(Job(str(folder), base="card"), entry)
    assert "tiny-planted" == base_of(Job("tiny-tuned", base="registry"), parse_model("tiny-tuned").entry)
    assert "org/other" == base_of(Job("m", base="org/other"), entry)
    assert "does not say" in refusal(base_of, Job(str(folder), base="registry"), entry)
    for card, said in (
        ("---\nbase_model: [a, b]\n---\n", "names 2 base models"),
        ("# bare\n", "names no base_model"),
    ):
        (folder / "README.md").write_text(card)
        assert said in refusal(base_of, Job(str(folder), base="card"), entry)


def test_a_place_that_cannot_be_written_ends_the_task(stored, tmp_path):
    """It is no fault of the model."""
    (tmp_path / "out").write_text("a file")
    with pytest.raises(BadInput, match="cannot"):
        perform(stored, str(tmp_path / "out"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub's cache with two models, the first used longest ago."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub_cache, "cache_directory", lambda: tmp_path / "cache")
    for place, name in enumerate(("old", "new")):
        folder = tmp_path / "hub" / f"models--org--{name}"
        blob, snapshot = folder / "blobs" / "b", folder / "snapshots" / ("a" * 40)
        for each in (blob.parent, snapshot, folder / "refs"):
            each.mkdir(parents=True)
        blob.write_bytes(bytes(1000))
        (snapshot / "model.safetensors").symlink_to(blob)
        (folder / "refs" / "main").write_text("a" * 40)
        os.utime(blob, (1000 + place, 1000 + place))
    return tmp_path / "hub"


def test_the_hub_s_cache_is_kept_within_a_limit_and_what_is_used_stays(hub, tmp_path):
    """What was used longest ago goes first; what a task on this node holds stays beyond the limit."""
    assert [] == hub_cache.evict(5000)
    with hub_cache.in_use([parse_model("org/old").entry], 10**6):
        assert ["org/new"] == hub_cache.evict(500)
        assert (hub / "models--org--old").is_dir()
    assert ["org/old"] == hub_cache.evict(500)


def test_a_pin_of_a_task_that_is_gone_holds_nothing(hub, tmp_path):
    """A worker that was killed leaves its pin; its process is looked for."""
    pins = tmp_path / "cache" / "fleet-in-use"
    pins.mkdir(parents=True)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (pins / str(process.pid)).write_text("org/old")
    assert ["org/old"] == hub_cache.evict(1500)


def test_signals_have_names():
    """One without a name is told by its number."""
    assert "ended by SIGTERM" in task._ending(-signal.SIGTERM)
    assert "signal 99" in task._ending(-99)
    assert Storage("memory://x").read("row") is None
