"""What the harness does not do unless it is asked to: reach out, run code, tell on its user."""

from __future__ import annotations

import json
import pickle
import socket
from pathlib import Path

import pytest

from superweight.core.resources import fixtures_directory
from tests.helpers.checkpoint_files import copy_checkpoint

SOUND = fixtures_directory() / "checkpoints" / "tiny-planted"


class Reached(BaseException):
    """Raised where something reaches for the network; nothing that catches errors catches it."""


@pytest.fixture
def no_network(monkeypatch):
    """Let no socket leave this process."""

    def reach(*arguments, **_):
        raise Reached(arguments)

    monkeypatch.setattr(socket.socket, "connect", reach)
    monkeypatch.setattr(socket.socket, "connect_ex", reach)
    monkeypatch.setattr(socket, "getaddrinfo", reach)


def test_the_block_blocks(no_network):
    """What proves the next test: a connection does end in the exception."""
    with pytest.raises(Reached):
        socket.create_connection(("localhost", 9))


@pytest.mark.parametrize("model", ["tiny-planted", "tiny-plain", "tiny-tuned"])
def test_all_claims_are_judged_without_a_network(run, no_network, model):
    """A stored model is measured, judged and held to its baseline with every socket blocked."""
    assert 14 == run("--sw-model", model).parseoutcomes()["passed"]


@pytest.mark.parametrize("arguments", ["scan tiny-planted", "read tiny-planted --at 1,41,23", "models"])
def test_commands_on_stored_models_need_no_network(superweight, no_network, arguments):
    """Nor does the command line."""
    assert 0 == superweight(*arguments.split()).exit_code


class _Bomb:
    def __init__(self, fuse):
        self.fuse = str(fuse)

    def __reduce__(self):
        return Path.touch, (Path(self.fuse),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "tokenizer.pkl"])
@pytest.mark.parametrize("beside", [True, False], ids=["beside safetensors", "alone"])
def test_a_pickle_is_never_opened(superweight, tmp_path, name, beside):
    """A file that runs code when unpickled lies in the checkpoint; it does not run."""
    copy, fuse = tmp_path / "copy", tmp_path / "lit"
    copy_checkpoint("tiny-planted", copy)
    (copy / name).write_bytes(pickle.dumps(_Bomb(fuse)))
    if not beside:
        (copy / "model.safetensors").unlink()
    result = superweight("scan", str(copy))
    assert (0 if beside else 4) == result.exit_code
    assert not fuse.exists()


def test_code_that_a_checkpoint_brings_is_not_run(superweight, tmp_path):
    """config.json asks for it; the harness's own reading of the model is used, or it is refused."""
    copy, fuse = tmp_path / "copy", tmp_path / "lit"
    copy_checkpoint("tiny-planted", copy)
    settings = json.loads((copy / "config.json").read_text())
    settings |= {"auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
    (copy / "config.json").write_text(json.dumps({**settings, "model_type": "evil"}))
    (copy / "evil.py").write_text(f"import pathlib\npathlib.Path({str(fuse)!r}).touch()\n")
    assert 4 == superweight("scan", str(copy)).exit_code
    (copy / "config.json").write_text(json.dumps(settings))
    superweight("scan", str(copy))
    assert not fuse.exists()


def test_a_report_tells_nothing_of_its_user(superweight, monkeypatch, tmp_path):
    """No environment variable's content, no user name, no home directory, in any file of it."""
    home = tmp_path / "home-of-somebody"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SECRET_TOKEN", "hunter2-hunter2")
    monkeypatch.setenv("USER", "somebody-unlikely")
    copy_checkpoint("tiny-planted", home / "model")
    out = tmp_path / "out"
    assert superweight("check", str(home / "model"), "--report", str(out)).exit_code in (0, 1)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"report.json", "report.html"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        for secret in ("hunter2-hunter2", "somebody-unlikely", "home-of-somebody"):
            assert secret.encode() not in content, (path.name, secret)


@pytest.mark.parametrize("where", [("192.0.2.1", 9), ("example.invalid", 9), ("2001:db8::1", 9)])
@pytest.mark.parametrize("connect", ["create_connection", "connect", "connect_ex"])
def test_every_test_is_held_to_this_machine(where, connect):
    """By address and by name: a test that reaches out is red, whatever catches errors on the way."""
    host, _ = where
    if connect == "create_connection":
        with pytest.raises(BaseException, match=f"a test reaches for {host}"):
            socket.create_connection(where)
        return
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(kind) as own, pytest.raises(BaseException, match=f"a test reaches for {host}"):
        getattr(own, connect)(where)


def test_this_machine_is_not_held_off():
    """Servers of the tests' own are reached by name and by address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("localhost", "127.0.0.1"):
            socket.create_connection((host, server.getsockname()[1])).close()
