"""A fleet's files in an object store: in memory and in a dataset of the hub always, and in S3.

The hub is a server of this machine that keeps what is committed. s3fs is sent to moto's server, which
stands in for S3, where both are installed.
"""

from __future__ import annotations

import pytest
from huggingface_hub import HfFileSystem, constants

from superweight.core.errors import BadInput
from superweight.fleet import storage
from superweight.fleet.storage import Storage
from tests.fleet.dataset_hub import REPO, dataset_hub

ROWS = "models/*/row.json"


@pytest.fixture(scope="module")
def s3():
    """A bucket of moto's server."""
    reason = "needs s3fs and moto: pip install s3fs 'moto[server]'"
    s3fs = pytest.importorskip("s3fs", reason=reason)
    moto = pytest.importorskip("moto.server", reason=reason)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "nobody")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket/night"
    server.stop()


@pytest.fixture
def memory(tmp_path):
    """fsspec's own."""
    return f"memory://{tmp_path.name}"


@pytest.fixture
def dataset(monkeypatch):
    """A dataset of a hub of this machine, empty."""
    monkeypatch.setenv("no_proxy", "*")
    with dataset_hub() as (address, held):
        # Both are made of HF_ENDPOINT when the client is imported.
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        HfFileSystem.clear_instance_cache()
        yield held
    HfFileSystem.clear_instance_cache()


@pytest.fixture
def hub(dataset):
    """A folder in it."""
    return f"hf://datasets/{REPO}/night"


@pytest.mark.parametrize("kind", ["memory", "hub", "s3"])
def test_a_store_keeps_each_file_whole(kind, request):
    """What is written is found and read, written over, removed; what is not there is None and no error."""
    store = Storage(request.getfixturevalue(kind))
    assert ([], None) == (list(store.found(ROWS)), store.read("index.json"))
    store.write({"models/a/report.json": b"{}", "models/a/row.json": b"1", "models/b c/row.json": b"2"})
    found = dict(store.found(ROWS))
    assert [b"1", b"2"] == list(found.values())
    assert ["a", "b c"] == [name.split("/")[-2] for name in found]
    store.write({"models/a/row.json": b"3"})
    assert b"3" == store.read("models/a/row.json")
    for _ in range(2):  # what is gone already is no error
        store.remove("models/a/row.json")
    assert (None, [b"2"]) == (store.read("models/a/row.json"), [data for _, data in store.found(ROWS)])


def test_what_is_written_together_is_one_commit(dataset, hub):
    """The hub allows so many in an hour; and a model's row is not there without its report."""
    Storage(hub).write({"models/a/report.json": b"{}", "models/a/row.json": b"1"})
    assert [["night/models/a/report.json", "night/models/a/row.json"]] == dataset.commits


@pytest.mark.parametrize("kind", ["memory", "hub", "s3"])
def test_what_another_node_wrote_is_seen(kind, request):
    """A list of files that was made before it was written is not asked."""
    place = request.getfixturevalue(kind)
    ours, theirs = Storage(f"{place}/shared"), Storage(f"{place}/shared")
    ours.write({"models/a/row.json": b"1"})
    assert [b"1"] == [data for _, data in ours.found(ROWS)]
    theirs._files = type(theirs._files)(skip_instance_cache=True)  # a list of its own, as in another process
    theirs.write({"models/a/row.json": b"2", "models/b/row.json": b"3"})
    assert [b"2", b"3"] == [data for _, data in ours.found(ROWS)]
    assert b"3" == ours.read("models/b/row.json")


def test_a_commit_that_another_node_overtook_is_sent_again(dataset, hub, monkeypatch):
    """A few times; then the file is named that could not be written, and nothing of it is there."""
    monkeypatch.setattr(storage, "_WAITS", (0.0, 0.0))
    dataset.overtaken = 2
    Storage(hub).write({"row.json": b"1"})
    assert (0, {"night/row.json": b"1"}) == (dataset.overtaken, dataset.files)
    dataset.overtaken = 3
    with pytest.raises(BadInput, match=f"cannot write {hub}/other.json: .*412"):
        Storage(hub).write({"other.json": b"1"})
    assert {"night/row.json": b"1"} == dataset.files


def test_a_dataset_that_is_not_there_is_named(dataset):
    """In one line."""
    with pytest.raises(BadInput, match=r"cannot write hf://datasets/org/nowhere/row.json: .*not found"):
        Storage("hf://datasets/org/nowhere").write({"row.json": b"1"})


def test_a_bucket_that_is_not_there_is_named(s3):
    """In one line, with the file that could not be written."""
    with pytest.raises(BadInput, match=r"cannot write s3://nowhere/night/row.json: .*bucket"):
        Storage(s3.replace("bucket", "nowhere")).write({"row.json": b"1"})
