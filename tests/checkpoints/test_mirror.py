"""A mirror of the hub is asked in the hub's place, and nobody at all in offline mode."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import ml_dtypes  # noqa: F401  # numpy learns of bfloat16 from it
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from superweight.core.resources import fixtures_directory
from tests.fault_injection.gguf_copies import split_gguf
from tests.helpers.checkpoint_files import copy_checkpoint, write_small_gguf

REPOSITORY = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PLANTED = fixtures_directory() / "checkpoints" / "tiny-planted"
PROJECTION = "model.layers.1.mlp.down_proj"
# Of the planted model's matrix after merging, at [2, 3]: its own, and 2 x 0.5 x 3.
MERGED = float(load_file(PLANTED / "model.safetensors")[f"{PROJECTION}.weight"][2, 3]) + 3
# What scan, check and compare do first, without the model library that takes seconds to start; or read,
# or what they do next. Each run is a fork of a process that has imported what takes long, and in which the
# hub's client has read its settings, which it does once.
PROGRAM = """
import json, os, sys, traceback
from huggingface_hub import HfApi, HfFileSystem, constants, hf_hub_download, snapshot_download
from superweight.checkpoints.adapter_source import named_adapter
from superweight.checkpoints.registry import load_registry, resolve
from superweight.checkpoints.sources import fetch
from superweight.cli import read
from superweight.cli.main import main
from superweight.core.errors import BadInput

def act(do, model, parameter=None, *rest):
    if do in ("read", "scan"):
        main()
    entry = resolve(model)
    if do == "fetch":
        print(named_adapter(entry) or fetch(entry).path)
    else:
        from superweight.model.loading import load
        subject = load(entry, device="cpu")
        print(subject.provenance)
        print("value", float(subject.model.get_parameter(parameter)[2, 3]))

load_registry()
for line in sys.stdin:
    folder, words = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        said = os.open("said.txt", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(said, 1), os.dup2(said, 2)
        constants.HF_HUB_CACHE = os.path.join(folder, "hf", "hub")
        os.environ["XDG_CACHE_HOME"] = os.path.join(folder, "cache")
        sys.argv, code = ["-c", *words], 0
        try:
            act(*words)
        except BadInput as error:
            print(error)
            code = 4
        except SystemExit as error:
            code = error.code or 0
        except BaseException:
            traceback.print_exc()
            code = 70
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def write_adapter(folder, base):
    """Write an adapter of rank 1 that adds 3 to one scalar of the planted model."""
    rows, columns = load_file(PLANTED / "model.safetensors")[f"{PROJECTION}.weight"].shape
    down, up = np.zeros((1, columns), np.float32), np.zeros((rows, 1), np.float32)
    down[0, 3], up[2, 0] = 0.5, 3
    folder.mkdir()
    stem = f"base_model.model.{PROJECTION}"
    factors = {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    save_file(factors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(said))


class Mirror(BaseHTTPRequestHandler):
    """Answers as the hub does about one folder for each repository."""

    # Headers and body go out apart: the second would wait 40 ms for the first to be acknowledged.
    disable_nagle_algorithm = True

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and (folder := self.server.folders.get("/".join(parts[2:4]))):
            names = [str(file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file()]
            if "tree" in parts:
                listed = [
                    {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": COMMIT}
                    for name in names
                ]
                self.answer(json.dumps(listed).encode())
                return
            siblings = [{"rfilename": name} for name in names]
            described = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": siblings}
            self.answer(json.dumps(described).encode())
            return
        folder = self.server.folders.get("/".join(parts[:2]))
        file = None if folder is None else folder / "/".join(parts[4:])
        if file is None or parts[2] != "resolve" or not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if folder else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.answer(file.read_bytes(), **{"X-Repo-Commit": COMMIT, "ETag": f'"{file.name}"'})

    def answer(self, body, **headers):
        span = self.headers.get("Range")
        size = len(body)
        if span is not None:
            first, _, last = span.removeprefix("bytes=").partition("-")
            body = body[int(first) : min(int(last or size - 1), size - 1) + 1]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(body) - 1}/{size}"
        self.send_response(200 if span is None else 206)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        """Keep quiet."""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.asked = []
    folder = tmp_path_factory.mktemp("mirror")
    write_small_gguf(folder / "tiny.gguf")
    ggufs = folder / "ggufs"
    (ggufs / "Q8_0").mkdir(parents=True)
    (folder / "tiny.gguf").rename(ggufs / "tiny-Q4_K_M.gguf")
    shutil.copy(ggufs / "tiny-Q4_K_M.gguf", folder / "tiny-Q8_0.gguf")
    split_gguf(folder / "tiny-Q8_0.gguf", ggufs / "Q8_0", 2)
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "base_model_name_or_path": "org/base"}'
    )
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    plain = folder / "plain"
    copy_checkpoint("tiny-planted", plain)
    write_adapter(folder / "lora", base="org/plain")
    (plain / "README.md").write_text("what nobody fetches")
    shards = folder / "shards"
    shutil.copytree(plain, shards)
    tensors = load_file(shards / "model.safetensors")
    (shards / "model.safetensors").unlink()
    for place, names in enumerate((sorted(tensors)[:5], sorted(tensors)[5:]), start=1):
        part = {name: tensors[name] for name in names}
        save_file(part, shards / f"model-0000{place}-of-00002.safetensors")
    server.folders = {
        **{"org/plain": plain, "org/ggufs": ggufs, "org/adapter": adapter, "org/shards": shards},
        "org/lora": folder / "lora",
    }
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def started(mirror):
    """Return the process that runs commands under some settings, started once for each of them."""
    running = {}

    def start(**settings):
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{mirror.server_port}",
            "PYTHONPATH": str(REPOSITORY / "harness"),
            "HF_HUB_DISABLE_XET": "1",
            "no_proxy": "127.0.0.1",
            **settings,
        }
        key = tuple(settings.items())
        if key not in running:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            running[key] = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, **pipes)
        return running[key]

    yield start
    for process in running.values():
        process.communicate(timeout=10)


@pytest.fixture
def ran(started, tmp_path):
    """Run a command against the mirror with an empty cache; return its exit code and what it said."""

    def run(*words, **settings):
        process = started(**settings)
        process.stdin.write(f"{json.dumps([str(tmp_path), words])}\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        return code, " ".join((tmp_path / "said.txt").read_text().split())

    return run


def test_a_model_is_fetched_from_a_mirror_and_then_offline(ran, mirror):
    """What came once is used without asking again, in offline mode as well."""
    code, said = ran("fetch", "org/plain")
    assert 0 == code, said
    mirror.asked.clear()
    assert 0 == ran("fetch", "org/plain", HF_HUB_OFFLINE="1")[0]
    assert [] == mirror.asked


def test_a_scalar_is_read_from_a_mirror(ran, mirror):
    """By ranges, and nothing is kept."""
    code, said = ran("read", "org/plain", "--at", "1,0,0")
    assert (0, True) == (code, "bytes received" in said), said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hf://org/plain", "hf://org/shards"])
def test_a_model_is_scanned_on_a_mirror_and_not_downloaded(ran, tmp_path, name):
    """Block by block, by ranges; nothing is kept."""
    code, said = ran("scan", name)
    assert (0, True) == (code, "made of 1 scalar in block 1" in said), said
    assert ["said.txt"] == [path.name for path in tmp_path.rglob("*") if path.is_file()]


def test_shards_without_an_index_are_read_from_a_mirror(ran):
    """The hub says which there are, and each shard what it holds, as in a folder."""
    code, said = ran("read", "hf://org/shards", "--at", "1,0,0")
    assert (0, True) == (code, "bytes received" in said), said


@pytest.mark.parametrize(
    "form", [":Q4_K_M", ":tiny-Q4_K_M.gguf", ":Q8_0", ":Q8_0/tiny-Q8_0-00002-of-00002.gguf"]
)
def test_a_gguf_file_of_a_repository_is_fetched_and_read(ran, form):
    """Whole or in parts, by its name or its quantiser; both ways to the files take the same words."""
    code, said = ran("read", f"org/ggufs{form}", "--at", "1,0,0")
    assert 0 == code, said
    code, said = ran("fetch", f"org/ggufs{form}")
    assert 0 == code, said
    assert 0 == ran("read", f"org/ggufs{form}", "--at", "1,0,0", HF_HUB_OFFLINE="1")[0]


@pytest.mark.parametrize("command", [("fetch",), ("read", "--at", "1,0,0")], ids=["fetch", "read"])
def test_a_repository_of_gguf_files_names_them(ran, mirror, command):
    """Which is meant is for the person to say, in words that are taken as they stand."""
    mirror.asked.clear()
    code, said = ran(command[0], "org/ggufs", *command[1:])
    assert 4 == code
    assert "org/ggufs holds only GGUF files; name the one that is meant: org/ggufs:" in said
    assert not [path for path in mirror.asked if path.endswith(".gguf")]


def test_an_adapter_that_came_damaged_is_named(ran):
    """Its weights are empty, which is no model that lacks something."""
    code, said = ran("read", "org/adapter", "--at", "1,0,0")
    assert 4 == code
    assert "adapter_model.safetensors" in said


@pytest.mark.parametrize("base", ["", "@org/plain", "@main", "@main@org/plain", "@org/plain@main"])
def test_an_adapter_on_the_hub_is_merged_into_its_base(ran, tmp_path, base):
    """By itself, at a revision, and with a base that is named: what follows an @ is read by its form."""
    code, said = ran("read", f"org/lora{base}", "--at", "1,2,3", "--json", "read.json")
    assert 0 == code, said
    value = json.loads((tmp_path / "read.json").read_text())["scalars"][0]["value"]
    assert value == pytest.approx(MERGED, rel=1e-5)


def test_an_adapter_that_came_once_is_used_offline(ran, mirror):
    """Nobody is asked again, and its base is the one that its configuration names."""
    assert 0 == ran("fetch", "org/plain")[0]
    assert 0 == ran("read", "org/lora", "--at", "1,2,3")[0]
    mirror.asked.clear()
    assert 0 == ran("read", "org/lora", "--at", "1,2,3", HF_HUB_OFFLINE="1")[0]
    assert [] == mirror.asked


@pytest.mark.slow
def test_an_adapter_on_the_hub_is_loaded_merged(ran):
    """With its base, which comes from the hub as well; the provenance names the adapter."""
    code, said = ran("load", "org/lora", f"{PROJECTION}.weight")
    assert 0 == code, said
    assert float(re.search(r"value (-?\d\S+)", said)[1]) == pytest.approx(MERGED, rel=1e-5)
    assert "LoRA" in said


def test_a_model_on_the_hub_is_asked_about_once(ran, mirror):
    """Whether it is an adapter and which files it has is one question."""
    mirror.asked.clear()
    code, said = ran("fetch", "org/plain")
    assert 0 == code, said
    assert 1 == mirror.asked.count("/api/models/org/plain")


def test_a_repository_that_a_mirror_lacks_is_named(ran):
    """The mirror said so, and is no damage."""
    code, said = ran("fetch", "org/absent")
    assert 4 == code
    assert "has no org/absent, or keeps it from you" in said


def test_a_mirror_that_is_down_is_named_by_its_address(ran):
    """It is the setting that is to be looked at, not the hub."""
    code, said = ran("fetch", "org/plain", HF_ENDPOINT="http://127.0.0.1:9")
    assert 4 == code
    assert "the hub at http://127.0.0.1:9 (HF_ENDPOINT) could not be asked for it" in said


def test_a_model_that_came_in_part_is_said_to_be_in_part_when_offline(ran, tmp_path):
    """An interrupted download is no missing model."""
    assert 0 == ran("fetch", "org/plain")[0]
    (snapshot,) = (tmp_path / "hf").rglob(COMMIT)
    (snapshot / "generation_config.json").unlink()
    assert 0 == ran("fetch", "org/plain", HF_HUB_OFFLINE="1")[0]  # all that loading needs is there
    (snapshot / "model.safetensors").unlink()
    code, said = ran("fetch", "org/plain", HF_HUB_OFFLINE="1")
    assert 4 == code
    assert "org/plain is only in part in the hub's cache" in said
    assert "HF_HUB_OFFLINE is set" in said
