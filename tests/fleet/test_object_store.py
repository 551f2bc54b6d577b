"""A fleet's files in an object store: in memory always, and in S3 by its own client.

s3fs is sent to moto's server on this machine, which stands in for S3, where both are installed.
"""

from __future__ import annotations

import pytest

from superweight.core.errors import BadInput
from superweight.fleet.storage import Storage

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


@pytest.mark.parametrize("kind", ["memory", "s3"])
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


def test_a_bucket_that_is_not_there_is_named(s3):
    """In one line, with the file that could not be written."""
    with pytest.raises(BadInput, match=r"cannot write s3://nowhere/night/row.json: .*bucket"):
        Storage(s3.replace("bucket", "nowhere")).write({"row.json": b"1"})
