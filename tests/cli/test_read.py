"""``superweight read``: single scalars from files that are never loaded, here and behind an address."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from superweight.checkpoints.tensors import ranges
from superweight.checkpoints.tensors.locations import locate
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.cli.main import main
from superweight.core.coordinates import Coordinate
from superweight.core.resources import fixtures_directory
from tests.helpers.checkpoint_files import finish_gguf

REPOSITORY = Path(__file__).parents[2]
PLANTED = fixtures_directory() / "checkpoints" / "tiny-planted"
NAME = "model.layers.{}.mlp.down_proj.weight"
# Of mistralai/Mistral-7B-v0.1, with the value that is published.
PLACE, VALUE = (1, 2070, 7310), -0.2734375
HIDDEN, INTERMEDIATE = 4096, 14336


def make_large(directory, *, gigabytes=14):
    """A sparse checkpoint of a 7B model's size: holes, and one scalar."""
    header, offset = {}, 0
    sizes = {NAME.format(layer): (HIDDEN, INTERMEDIATE) for layer in range(32)}
    sizes["lm_head.weight"] = (gigabytes * 10**9 // 2 // HIDDEN - 32 * INTERMEDIATE, HIDDEN)
    for name, shape in sizes.items():
        end = offset + 2 * shape[0] * shape[1]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    begin = 8 + len(text)
    layer, row, col = PLACE
    place = begin + header[NAME.format(layer)]["data_offsets"][0] + 2 * (row * INTERMEDIATE + col)
    path = directory / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.seek(place)
        file.write(struct.pack("<f", VALUE)[2:])
    os.truncate(path, begin + offset)
    (directory / "config.json").write_text(json.dumps({"model_type": "mistral", "hidden_size": HIDDEN}))
    return directory


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return make_large(tmp_path_factory.mktemp("large"))


class Handler(BaseHTTPRequestHandler):
    """Serves a folder by ranges, unless its server says otherwise."""

    # Headers and body go out apart: the second would wait 40 ms for the first to be acknowledged.
    disable_nagle_algorithm = True
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers))
        if server.silent:
            time.sleep(server.silent)
            return
        if server.redirect is not None:
            self.answer(302, b"", Location=server.redirect + self.path)
            return
        path = server.folder / self.path.partition("?")[0].removeprefix(server.prefix).lstrip("/")
        if server.status is not None or not path.is_file():
            self.answer(server.status or 404, b"no")
            return
        size = path.stat().st_size
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        with path.open("rb") as file:
            if match is None or not server.ranges:
                self.begin(200, size)
                while piece := file.read(2**16):
                    self.send(piece)
                return
            start, end = int(match[1]) + server.shift, min(int(match[2]) + 1, size)
            if start >= size:
                self.answer(416, b"")
                return
            file.seek(start)
            sent = file.read(end - start) + bytes(server.excess)
            self.answer(206, sent, **{"Content-Range": f"bytes {start}-{end - 1}/{size}"})

    def answer(self, status, body, **headers):
        self.begin(status, len(body), **headers)
        self.send(body)

    def begin(self, status, length, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": length, **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()

    def send(self, body):
        try:
            self.server.sent += len(body)  # before whoever reads it can ask for the count
            self.wfile.write(body)
        except OSError:
            self.server.refused.set()
            self.close_connection = True
            raise

    def log_message(self, *_):
        """Say nothing."""

    def handle(self):
        # The reader hangs up, which is what is tested.
        with contextlib.suppress(OSError):
            super().handle()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.prefix, self.requests, self.sent = Path(folder), "", [], 0
        self.excess = 0
        self.ranges, self.shift, self.status, self.silent, self.redirect = True, 0, None, 0, None
        self.refused = threading.Event()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def serve():
    """Serve a folder on this machine, counting the bytes sent."""
    servers = []

    def start(folder):
        server = Server(folder)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    """A proxy of the machine's would answer in place of the servers here."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def superweight(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    return lambda *arguments: CliRunner().invoke(main, ["read", *map(str, arguments)])


def refused(result):
    """The one line of a refusal, which exits 4."""
    assert 4 == result.exit_code, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("superweight: ")
    return line


def scalars(result):
    assert 0 == result.exit_code, result.output
    return json.loads(result.stdout)["scalars"]


def test_prints_the_scalar_and_whether_it_is_the_published_one(superweight):
    """Coordinate, value, dtype and tensor; the registry's value beside it."""
    result = superweight("tiny-planted", "--at", "1,41,23", "--at", "0,1,2")
    assert 0 == result.exit_code
    lines = result.stdout.splitlines()
    assert "[1, 41, 23] = 4.0 (BF16) in model.layers.1.mlp.down_proj.weight" == lines[0]
    assert "  agrees with the published value 4.00000000" == lines[1]
    assert lines[2].startswith("[0, 1, 2] = ")
    assert 3 == len(lines)


def test_says_when_a_value_is_not_the_published_one(superweight):
    """The plain twin under the planted model's name disagrees; reading it still succeeds."""
    plain = fixtures_directory() / "checkpoints" / "tiny-plain"
    result = superweight(f"tiny-planted={plain}", "--directory")
    assert 0 == result.exit_code
    assert "  DISAGREES with the published value 4.00000000" == result.stdout.splitlines()[1]


def test_writes_the_contract(superweight):
    """The JSON has the keys other tools rely on."""
    document = json.loads(superweight("tiny-planted", "--directory", "--json", "-").stdout)
    assert {"model", "address", "bytes_received", "scalars"} == document.keys()
    assert ("tiny-planted", None) == (document["model"], document["bytes_received"])
    expected = {
        **{"layer": 1, "expert": None, "row": 41, "col": 23, "value": 4.0, "step": None, "dtype": "BF16"},
        **{"tensor": NAME.format(1), "shape": [64, 160], "file": "model.safetensors"},
        **{"published": 4.0, "agrees": True},
    }
    assert [expected] == document["scalars"]


def test_json_goes_to_a_file_beside_the_lines(superweight, tmp_path):
    """A file gets the document, the terminal the lines."""
    result = superweight("tiny-planted", "--directory", "--json", tmp_path / "out.json")
    assert result.stdout.startswith("[1, 41, 23] = 4.0")
    assert 4.0 == json.loads((tmp_path / "out.json").read_text())["scalars"][0]["value"]


def test_a_value_that_is_no_number_is_still_json(superweight, tmp_path, write_safetensors):
    """NaN is printed as it is, and null in JSON, which has no NaN."""
    write_safetensors(tmp_path / "m.safetensors", {NAME.format(0): np.full((2, 2), np.nan, np.float32)})
    arguments = (tmp_path / "m.safetensors", "--at", "0,0,0")
    assert superweight(*arguments).stdout.startswith("[0, 0, 0] = nan (F32)")
    assert scalars(superweight(*arguments, "--json", "-"))[0]["value"] is None


def test_a_quantised_value_agrees_within_half_a_step(superweight, tmp_path, write_safetensors):
    """An int8 release holds the published value's nearest neighbour; one step off is another value."""
    codes = np.full((42, 24), 10, np.int8)
    for scale, agrees in ((0.41, True), (0.5, False)):
        tensors = {NAME.format(1): codes, f"{NAME.format(1)}_scale": np.float32([scale])}
        write_safetensors(tmp_path / "m.safetensors", tensors)
        (scalar,) = scalars(
            superweight(f"tiny-planted={tmp_path / 'm.safetensors'}", "--directory", "--json", "-")
        )
        assert (agrees, pytest.approx(scale)) == (scalar["agrees"], scalar["step"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("tiny-planted",),
        ("tiny-planted", "--at", "1,41"),
        ("tiny-planted", "--at", "99,0,0"),
        ("tiny-planted", "--at", "1,64,0"),
        ("tiny-plain", "--directory"),
        ("nowhere", "--at", "0,0,0"),
        ("./missing.gguf", "--at", "0,0,0"),
        ("./missing.safetensors", "--at", "0,0,0"),
        ("hf://nowhere", "--at", "0,0,0"),
        ("http://", "--at", "0,0,0"),
        ("https://[bad/x.safetensors", "--at", "0,0,0"),
        ("ftp://host/x.safetensors", "--at", "0,0,0"),
        ("tiny-planted", "--directory", "--json", "/no/such/dir/out.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_4(superweight, arguments):
    """What is wrong, on one line, and no traceback."""
    refused(superweight(*arguments))


def test_a_large_local_file_is_read_without_loading_torch(large):
    """A scalar of a file of 14 GB, in a process of its own: no torch, no transformers, soon done."""
    script = (
        "import sys; from superweight.cli.main import main\n"
        f"main(['read', {str(large)!r}, '--at', '1,2070,7310'], standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'rich', 'huggingface_hub', 'aiohttp'} & sys.modules.keys()))"
    )
    began = time.monotonic()
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert [f"{list(PLACE)} = {VALUE} (BF16) in {NAME.format(1)}", "[]"] == finished.stdout.splitlines()
    # Half a second is asked for; a busy machine may take longer, reading 14 GB would take far longer.
    assert 3 > time.monotonic() - began


def test_gguf_is_read_without_loading_torch(tmp_path):
    """So is a GGUF file."""
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("blk.0.ffn_down.weight", np.full((2, 2), 7, np.float32))
    finish_gguf(writer)
    script = (
        "import sys; from superweight.cli.main import main\n"
        f"main(['read', {str(tmp_path / 'm.gguf')!r}, '--at', '0,1,1'], standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ["[0, 1, 1] = 7.0 (F32) in blk.0.ffn_down.weight", "[]"] == finished.stdout.splitlines()


@pytest.mark.checkpoint
def test_the_real_model_is_read_from_its_wheel(superweight):
    """Both super weights of the registry's real model are what is published, with their blocks' steps."""
    result = scalars(superweight("smollm2-135m-instruct-q4_1", "--directory", "--json", "-"))
    assert [5.875732421875, 6.06591796875] == [scalar["value"] for scalar in result]
    assert [("Q4_1", True)] * 2 == [(scalar["dtype"], scalar["agrees"]) for scalar in result]
    assert [0.464111328125, 0.50439453125] == [scalar["step"] for scalar in result]


def test_a_remote_file_sends_only_what_is_needed(serve, superweight, large):
    """Of 14 GB, a few dozen kilobytes are sent, and the count that is printed is true."""
    server = serve(large)
    for address in (f"{server.address}/model.safetensors", f"{server.address}/", server.address):
        server.sent = 0
        result = superweight(address, "--at", "1,2070,7310")
        assert 0 == result.exit_code, result.output
        assert f"{list(PLACE)} = {VALUE} (BF16)" in result.stdout
        assert f"{server.sent} bytes received" == result.stdout.splitlines()[-1]
        assert 50_000 > server.sent


def test_every_request_names_a_range(serve, superweight, large):
    """Nothing is asked for whole, and nothing compressed."""
    server = serve(large)
    superweight(server.address, "--at", "1,2070,7310")
    assert 2 == len(server.requests)
    for _, headers in server.requests:
        assert headers["Range"].startswith("bytes=")
        assert "identity" == headers["Accept-Encoding"]


def test_a_header_longer_than_the_first_request_is_read(serve, tmp_path, write_safetensors):
    """A second request brings the rest of it."""
    tensors = {f"some.other.tensor.{number}": np.zeros(1, np.float32) for number in range(2000)}
    tensors[NAME.format(0)] = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = write_safetensors(tmp_path / "m.safetensors", tensors)
    server = serve(tmp_path)
    checkpoint = open_checkpoint(f"{server.address}/m.safetensors")
    assert 5.0 == checkpoint.scalar(NAME.format(0), 1, 2).value
    assert path.stat().st_size > server.sent > 2**17


def test_only_the_shards_that_are_needed_are_touched(serve, superweight, tmp_path, write_safetensors):
    """A sharded checkpoint brings its index and one header; the listing brings them all, and finds gaps."""
    weight_map = {}
    for layer in range(8):
        file, name = f"model-{layer}.safetensors", NAME.format(layer)
        write_safetensors(tmp_path / file, {name: np.full((2, 3), layer, np.float32)})
        weight_map[name] = file
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    server = serve(tmp_path)
    (scalar,) = scalars(superweight(server.address, "--at", "5,1,2", "--json", "-"))
    assert 5.0 == scalar["value"]
    asked = {path for path, _ in server.requests}
    assert {"/model.safetensors", "/model.safetensors.index.json", "/model-5.safetensors"} == asked
    assert weight_map.keys() == open_checkpoint(server.address).tensors().keys()
    (tmp_path / "model-3.safetensors").unlink()
    assert "lacks model-3.safetensors" in refused(superweight(server.address, "--at", "3,0,0"))
    assert 0 == superweight(server.address, "--at", "2,0,0").exit_code


def test_a_remote_gguf_is_read_by_ranges_too(serve, superweight, tmp_path):
    """The same bytes, the same reader."""
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    matrix = np.random.default_rng(0).normal(size=(2048, 1024)).astype(np.float32)
    writer.add_tensor("blk.0.ffn_down.weight", matrix)
    finish_gguf(writer)
    server = serve(tmp_path)
    (scalar,) = scalars(superweight(f"{server.address}/m.gguf", "--at", "0,2047,1023", "--json", "-"))
    assert float(matrix[2047, 1023]) == scalar["value"]
    assert 2 * 2**20 > server.sent


def test_a_server_that_ignores_ranges_is_noticed_at_once(serve, superweight, large):
    """The whole file would come: the connection is closed on the answer's headers, and the line says so."""
    server = serve(large)
    server.ranges = False
    line = refused(superweight(f"{server.address}/model.safetensors", "--at", "1,2070,7310"))
    assert "the server ignores range requests and would send the whole file, 14" in line
    assert server.refused.wait(5)
    # What fits into the two sockets is on its way before anyone can object.
    assert 16 * 2**20 > server.sent


def test_a_small_file_may_come_whole(serve, superweight, tmp_path, write_safetensors):
    """A file no longer than what was asked for is no breach, even from a server without ranges."""
    write_safetensors(tmp_path / "m.safetensors", {NAME.format(0): np.full((4, 4), 3, np.float32)})
    server = serve(tmp_path)
    server.ranges = False
    address = f"{server.address}/m.safetensors"
    assert 3.0 == scalars(superweight(address, "--at", "0,3,3", "--json", "-"))[0]["value"]
    assert 1 == len(server.requests)


@pytest.mark.parametrize("fault", ["shift", "excess"])
def test_another_range_than_asked_for_is_refused(serve, superweight, large, fault):
    """A server that sends other bytes, or more than it says, would have us read another scalar."""
    server = serve(large)
    setattr(server, fault, 8)
    line = refused(superweight(f"{server.address}/model.safetensors", "--at", "1,2070,7310"))
    assert "sent another range" in line


def test_a_remote_truncation_is_noticed(serve, superweight, tmp_path):
    """A remote file shorter than its header says is refused, though the scalar would be there."""
    content = (PLANTED / "model.safetensors").read_bytes()
    server = serve(tmp_path)
    for twentieth in range(20):
        (tmp_path / "m.safetensors").write_bytes(content[: len(content) * twentieth // 20])
        refused(superweight(f"{server.address}/m.safetensors", "--at", "1,41,23"))
    (tmp_path / "m.safetensors").write_bytes(content)
    assert 0 == superweight(f"{server.address}/m.safetensors", "--at", "1,41,23").exit_code


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "not open to you (HTTP 401)"), (403, "set HF_TOKEN"), (500, "500"), (404, "holds neither")],
)
def test_a_refusal_by_the_server_is_one_line(serve, superweight, large, status, reason, monkeypatch):
    """What the server answers is what the line says."""
    monkeypatch.setattr(ranges, "FIRST_WAIT", 0.01)  # it is asked again after a 500
    server = serve(large)
    server.status = status
    assert reason in refused(superweight(server.address, "--at", "1,2070,7310"))


def test_an_absent_file_is_named(serve, superweight, large):
    """An address that leads to nothing says which file is missing."""
    line = refused(superweight(f"{serve(large).address}/absent.safetensors", "--at", "0,0,0"))
    assert "holds no absent.safetensors; check the address" in line


def test_unreachable_addresses_are_refused_after_a_short_wait(serve, superweight, large, monkeypatch):
    """A closed port at once; one that does not answer, or says nothing, after less than five seconds."""
    assert 5 > ranges.TIMEOUT
    monkeypatch.setattr(ranges, "TIMEOUT", 0.25)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert "cannot read" in refused(superweight(address, "--at", "0,0,0"))
    server = serve(large)
    server.silent = 1
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, contextlib.ExitStack() as stack:
        # Nobody takes these connections up, so that the system answers no further one.
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        for address in (server.address, f"http://127.0.0.1:{deaf.getsockname()[1]}"):
            line = refused(superweight(address, "--at", "0,0,0"))
            assert "no answer within 0.25 seconds" in line


def test_a_signature_in_an_address_is_used_and_not_shown(serve, superweight, large):
    """A query goes with every request, and into no message."""
    server = serve(large)
    server.ranges = False
    line = refused(superweight(f"{server.address}/model.safetensors?sig=secret", "--at", "0,0,0"))
    assert "secret" not in line
    assert ["/model.safetensors?sig=secret"] == [path for path, _ in server.requests]


@pytest.fixture
def hub(serve, large, tmp_path, monkeypatch):
    """A hub that sends its readers on to a server elsewhere, as the real one does."""
    from huggingface_hub import constants

    storage, hub = serve(large), serve(large)
    storage.prefix = "/mistralai/Mistral-7B-v0.1/resolve/main"
    # Another host's name, or it would count as the same place.
    hub.redirect = storage.address.replace("127.0.0.1", "localhost")
    hub.storage = storage
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    # What HF_ENDPOINT becomes when the client is imported.
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return hub


@pytest.mark.parametrize(
    "model",
    [
        "hf://mistralai/Mistral-7B-v0.1",
        "hf://mistralai/Mistral-7B-v0.1@main",
        "hf://mistralai/Mistral-7B-v0.1/model.safetensors",
        "mistralai/Mistral-7B-v0.1",
        "mistralai/Mistral-7B-v0.1@main",
    ],
)
def test_the_hub_is_read_by_ranges(hub, superweight, model):
    """Every way to name a repository leads to the published scalars, without its files."""
    (scalar,) = scalars(superweight(model, "--directory", "--json", "-"))
    assert (*PLACE, VALUE, True) == tuple(scalar[key] for key in ("layer", "row", "col", "value", "agrees"))
    assert 50_000 > hub.storage.sent + hub.sent


def test_a_registry_name_says_what_is_published(hub, superweight):
    """NAME=hf://... is held to what is published of NAME, not of the repository."""
    (scalar,) = scalars(
        superweight("tiny-planted=hf://mistralai/Mistral-7B-v0.1", "--directory", "--json", "-")
    )
    assert (1, 41, 23, 4.0, False) == tuple(
        scalar[key] for key in ("layer", "row", "col", "published", "agrees")
    )


def test_another_hub_is_read_without_loading_torch(hub, tmp_path):
    """HF_ENDPOINT names the hub that is asked; neither torch nor transformers is loaded for it."""
    script = (
        "import sys; from superweight.cli.main import main\n"
        "main(['read', 'hf://mistralai/Mistral-7B-v0.1', '--directory'], standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path)}
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    lines = finished.stdout.splitlines()
    assert f"{list(PLACE)} = {VALUE} (BF16) in {NAME.format(1)}" == lines[0]
    assert "  agrees with the published value -0.2734375" == lines[1]
    assert "[]" == lines[-1]


def test_the_token_goes_to_the_hub_alone(hub, superweight):
    """The storage that the hub sends readers to gets the range and not the token."""
    superweight("hf://mistralai/Mistral-7B-v0.1", "--directory")
    assert {"Bearer hf_secret"} == {headers.get("Authorization") for _, headers in hub.requests}
    assert {None} == {headers.get("Authorization") for _, headers in hub.storage.requests}


def test_a_token_that_is_not_to_be_sent_unasked_is_not(hub, superweight, monkeypatch):
    """HF_HUB_DISABLE_IMPLICIT_TOKEN is heeded."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    assert (
        VALUE
        == scalars(superweight("hf://mistralai/Mistral-7B-v0.1", "--directory", "--json", "-"))[0]["value"]
    )
    assert {None} == {headers.get("Authorization") for _, headers in hub.requests}


def test_a_revision_is_asked_for(hub, superweight):
    """The revision stands in the request, one with slashes as well."""
    hub.storage.prefix = "/org/name/resolve/refs%2Fpr%2F1"
    result = superweight("hf://org/name@refs/pr/1", "--at", "1,2070,7310", "--json", "-")
    assert VALUE == scalars(result)[0]["value"]


def test_a_cached_snapshot_is_read_without_the_hub(hub, superweight, tmp_path):
    """A repository in the hub's cache is read there; one that is there only in part is not."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "models--org--name"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    hub.storage.prefix = "/org/name/resolve/main"
    assert VALUE == scalars(superweight("org/name", "--at", "1,2070,7310", "--json", "-"))[0]["value"]
    asked = len(hub.requests)
    assert asked
    weights = (PLANTED / "model.safetensors").read_bytes()
    (repository / "snapshots" / commit / "model.safetensors").write_bytes(weights)
    assert 4.0 == scalars(superweight("org/name", "--at", "1,41,23", "--json", "-"))[0]["value"]
    assert asked == len(hub.requests)


def test_the_hub_is_left_alone_offline(hub, superweight, monkeypatch):
    """HF_HUB_OFFLINE is heeded, and named."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(superweight("hf://org/name", "--at", "0,0,0"))
    assert [] == hub.requests


def test_rows_and_matrices_are_brought_by_ranges(serve, tmp_path, write_safetensors):
    """What a comparison needs of a remote checkpoint is one range for each row or matrix."""
    matrix = np.random.default_rng(0).normal(size=(256, 512)).astype(np.float32)
    write_safetensors(tmp_path / "model.safetensors", {NAME.format(0): matrix, "z": matrix})
    server = serve(tmp_path)
    checkpoint = open_checkpoint(server.address)
    (location,) = locate(checkpoint, Coordinate(0, 200, 3))
    server.sent = 0
    assert np.array_equal(matrix[200], location.row(checkpoint, 200))
    assert 512 * 4 == server.sent
    assert np.array_equal(matrix, location.matrix(checkpoint))
