"""Ranges are asked for again where they fail, and of a server that does not keep to them nothing is read."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from benchmarks.made_up import InMemory
from benchmarks.range_server import Network, serving
from superweight.checkpoints.tensors import ranges
from superweight.checkpoints.tensors.remote import RemoteFolder
from superweight.core.errors import BadInput

DATA = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(autouse=True)
def _pace(monkeypatch):
    """Small pieces and short waits; no proxy in place of the servers here."""
    monkeypatch.setattr(ranges, "PIECE", 2**16)
    monkeypatch.setattr(ranges, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def network():
    """A file on a server, and the network on the way to it."""
    network = Network()
    with serving({"m.safetensors": InMemory(DATA)}, network) as server:
        folder = RemoteFolder(server.address)
        yield folder.find("m.safetensors"), network


def filled(file, start=0, end=2**20):
    target = bytearray(end - start)
    file.read_into(start, memoryview(target))
    return bytes(target)


def test_a_long_range_comes_in_pieces_four_at_once_over_kept_connections(network):
    """Sixteen requests, and no more connections than run at a time."""
    file, network = network
    network.latency = 0.02
    asked = len(network.asked)
    assert DATA == filled(file)
    assert 16 == len(network.asked) - asked
    assert ranges.AT_ONCE == network.at_once
    assert network.connections <= ranges.AT_ONCE + 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_is_busy_is_asked_again(network, status):
    """After a wait that doubles; the bytes are the file's."""
    file, network = network
    network.refuse = [status] * 3
    assert DATA[:100_000] == filled(file, 0, 100_000)
    assert [] == network.refuse


def test_a_server_that_stays_busy_is_given_up(network):
    """In one line, with what it answered."""
    file, network = network
    network.refuse = [503] * (ranges.AGAIN + 1)
    with pytest.raises(BadInput, match="the server answered HTTP 503; try again later"):
        filled(file, 0, 50_000)


def test_what_a_server_asks_to_wait_is_waited(network, monkeypatch):
    """Not longer than half a minute, and not what is no number."""
    assert 7.0 == ranges._seconds("7")
    assert ranges._seconds("Fri, 27 Nov 2026 03:00:00 GMT") is None
    waited = []

    async def sleep(seconds):
        waited.append(seconds)

    monkeypatch.setattr(ranges.asyncio, "sleep", sleep)
    monkeypatch.setattr(ranges, "_seconds", lambda _: 86400.0)
    file, network = network
    network.refuse = [429]
    filled(file, 0, 40_000)
    assert [ranges.LONGEST_WAIT] == waited


def test_a_dropped_connection_is_resumed_where_it_ended(network):
    """What came is not asked for again."""
    file, network = network
    sent = network.sent
    network.drop = [10_000, 1, 33_000]
    assert DATA == filled(file)
    assert [] == network.drop
    assert len(DATA) == network.sent - sent


def test_a_range_that_never_comes_to_an_end_is_given_up(network):
    """Where not a byte comes any more."""
    file, network = network
    network.drop = [0] * (ranges.AGAIN + 2)
    with pytest.raises(BadInput, match="cannot read"):
        filled(file, 0, 40_000)


def test_a_server_that_ignores_ranges_is_refused_before_it_sends_the_file(network):
    """Of the body, at most what lies in the sockets."""
    file, network = network
    network.ranges, network.rate = False, 1e6
    sent, began = network.sent, time.monotonic()
    with pytest.raises(BadInput, match="ignores range requests and would send the whole file, 1048576 bytes"):
        filled(file, 0, 100_000)
    assert network.sent - sent < len(DATA)
    assert time.monotonic() - began < 5


def test_what_lies_in_the_beginning_is_not_asked_for_again(network):
    """A header's bytes came with the first request."""
    file, network = network
    asked = len(network.asked)
    assert DATA[5:1000] == filled(file, 5, 1000)
    assert b"" == filled(file, 7, 7)
    assert asked == len(network.asked)


def test_a_file_that_ends_before_is_called_truncated(network):
    """Before anything is asked for."""
    file, _ = network
    with pytest.raises(BadInput, match="it is truncated"):
        filled(file, len(DATA) - 10, len(DATA) + 10)


def test_a_small_file_takes_the_memory_of_a_small_file():
    """As much is asked for as a long one would have; what is not there takes none."""
    with serving({"config.json": InMemory(DATA)}) as server:
        folder = RemoteFolder(server.address)
        folder.document("config.json")  # the connection is there
        tracemalloc.start()
        try:
            assert DATA == folder.document("config.json")
            assert folder.document("nowhere.json") is None
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < 8 * len(DATA)
