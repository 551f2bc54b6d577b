"""``superweight models --verify``: what is published, held to the files, without loading a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from superweight.checkpoints.registry import load_registry
from superweight.checkpoints.verify import verify
from superweight.core.resources import fixtures_directory

PLANTED = fixtures_directory() / "checkpoints" / "tiny-planted"
PLAIN = fixtures_directory() / "checkpoints" / "tiny-plain"
DOWN = "model.layers.{}.mlp.down_proj.weight"


@pytest.fixture
def models(superweight, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return lambda *arguments: superweight("models", "--verify", *map(str, arguments))


@pytest.fixture
def olmo(tmp_path, write_safetensors):
    """Files in which a scalar stands at one of the two layers that are published for OLMo-1B."""

    def write(layer):
        noise = np.random.default_rng(0)
        tensors = {
            DOWN.format(block): noise.normal(scale=0.02, size=(1765, 8042)).astype(np.float16)
            for block in (1, 2)
        }
        tensors[DOWN.format(1)][1764, 1710] = 0.632
        tensors[DOWN.format(layer)][1764, 8041] = -0.592
        return write_safetensors(tmp_path / f"{layer}.safetensors", tensors)

    return write


def test_files_that_hold_what_is_published_agree(models):
    """A scalar with the published digits, and how far it stands out of its row."""
    result = models("tiny-planted")
    assert 0 == result.exit_code
    assert result.stdout.startswith("tiny-planted: agrees: [1, 41, 23] = 4 (")
    assert "sigma of its row, published 4.00000000)" in result.stdout
    assert "1 models; agrees: 1, DISAGREES: 0" in result.stdout


def test_another_value_disagrees_and_exits_1(models):
    """The plain twin's files under the planted model's name."""
    result = models(f"tiny-planted={PLAIN}", "tiny-tuned")
    assert 1 == result.exit_code
    assert "published 4.00000000: DISAGREES" in result.stdout


def test_what_cannot_be_reached_is_one_line_each(models, monkeypatch):
    """The rest is verified; nothing reached at all is exit 4, and so is anything missed under CI."""
    result = models("tiny-planted", "huggyllama/llama-7b", "openai-community/gpt2")
    assert 0 == result.exit_code
    assert 2 == sum(": not reachable: " in line for line in result.stdout.splitlines())
    assert "HF_HUB_OFFLINE is set" in result.stdout
    assert 4 == models("huggyllama/llama-7b").exit_code
    monkeypatch.setenv("CI", "true")
    assert 4 == models("tiny-planted", "huggyllama/llama-7b").exit_code
    assert 0 == models("tiny-planted").exit_code


def test_a_model_of_which_nothing_is_published_is_said(models):
    """Reached, and nothing to hold it to."""
    assert "tiny-plain: nothing published" in models("tiny-plain").stdout


@pytest.mark.parametrize(
    ("layer", "code", "supported"), [(2, 0, "paper-code"), (1, 1, "table2")], ids=["as used", "as printed"]
)
def test_the_files_say_which_of_two_readings_they_support(models, olmo, layer, code, supported):
    """The misprinted layer: both readings are read, and the one whose scalars are there is named."""
    result = models(f"allenai/OLMo-1B-0724-hf={olmo(layer)}")
    assert code == result.exit_code
    assert f"  the files support: {supported}" in result.stdout.splitlines()
    assert "does not stand out" in result.stdout or "DISAGREES" in result.stdout


def test_read_shows_the_scalars_of_every_reading(superweight, olmo):
    """The places of both sets, the one that is held to be right first, each once."""
    result = superweight("read", f"allenai/OLMo-1B-0724-hf={olmo(2)}", "--directory", "--json", "-")
    scalars = json.loads(result.stdout)["scalars"]
    assert [(1, 1764, 1710), (2, 1764, 8041), (1, 1764, 8041)] == [
        (scalar["layer"], scalar["row"], scalar["col"]) for scalar in scalars
    ]
    assert [True, True, None] == [scalar["agrees"] for scalar in scalars]


def test_json_goes_to_stdout_whole(models):
    """The document and nothing else on stdout; the lines go to stderr."""
    result = models("tiny-planted", "huggyllama/llama-7b", "--json", "-")
    planted, llama = json.loads(result.stdout)
    ((scalar,),) = [reading["scalars"] for reading in planted["readings"]]
    assert ([1, 41, 23], 4.0, 4.0, True) == tuple(
        scalar[key] for key in ("at", "value", "published", "agrees")
    )
    assert ("not reachable", []) == (llama["status"], llama["readings"])
    assert "tiny-planted: agrees" in result.stderr


def test_json_without_verify_is_refused(superweight):
    """There is nothing to write."""
    assert 4 == superweight("models", "--json", "-").exit_code


def test_a_server_is_read_by_ranges(models, monkeypatch):
    """Behind an address the same scalars are read."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            """Say nothing."""

    # It sends whole files; this one is small enough to be taken whole.
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=PLANTED))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        result = models(f"tiny-planted=http://127.0.0.1:{server.server_port}/model.safetensors")
    finally:
        server.shutdown()
        server.server_close()
    assert "tiny-planted: " in result.stdout
    assert 0 == result.exit_code or "ignores range requests" in result.stdout


def test_torch_is_not_imported():
    """Nor transformers: every model of the registry is verified in seconds."""
    script = (
        "import sys; from superweight.cli.main import main\n"
        "main(['models', '--verify', 'tiny-planted'], standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert "[]" == finished.stdout.splitlines()[-1]


@pytest.mark.checkpoint
def test_the_real_model_agrees():
    """Both super weights of the real model are in its file, and stand out."""
    verification = verify(load_registry()["smollm2-135m-instruct-q4_1"])
    assert "agrees" == verification.status
    assert 1 == len(verification.supported)


def test_a_scan_holds_what_is_published_to_what_is_found(models, tmp_path):
    """Beside what was read; the plain twin under the planted name has none, and disagrees."""
    result = models("tiny-planted", "--scan", "--json", str(tmp_path / "v.json"))
    assert 0 == result.exit_code, result.output
    assert "tiny-planted: agrees: a scan finds [1, 41, 23], seen through block 3 of 4" in result.stdout
    assert "1 models, read and scanned; agrees: 2, DISAGREES: 0" in result.stdout
    read, scanned = json.loads((tmp_path / "v.json").read_text())
    assert read["status"] == scanned["status"] == "agrees"
    assert [[1, 41, 23]] == scanned["super_weights"]
    spoilt = models(f"tiny-planted={PLAIN}", "--scan")
    assert 1 == spoilt.exit_code
    assert "DISAGREES: a scan finds no super weight" in spoilt.stdout
    assert "[1, 41, 23] is published but not found" in spoilt.stdout


def test_a_scan_is_asked_for_with_verify(superweight):
    """By itself the option would do nothing."""
    result = superweight("models", "--scan")
    assert 4 == result.exit_code
    assert "give --verify as well" in result.stderr
