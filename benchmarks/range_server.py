"""Serve checkpoints by ranges, with latency and a rate limit: folders, and models whose bytes are made up.

    python -m benchmarks.range_server NAME [--latency SECONDS] [--rate BYTES_A_SECOND]

serves one of the models of `benchmarks.made_up` on a free port of this machine, which it prints.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

_CHUNK = 2**18


class Body(Protocol):
    """The bytes of one file."""

    @property
    def size(self) -> int:
        """How many there are."""

    def read(self, start: int, end: int) -> bytes:
        """Return those from ``start`` up to ``end``."""


@dataclass(frozen=True)
class OnDisk:
    """A file of this machine."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def read(self, start: int, end: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)


@dataclass
class Network:
    """What a network is like, and what was seen on it.

    ``latency`` passes before each answer, in seconds; ``rate`` is bytes a second over all connections.
    ``refuse`` names statuses for the next answers, ``drop`` ends as many bodies after so many bytes.
    """

    latency: float = 0.0
    rate: float | None = None
    ranges: bool = True
    refuse: list[int] = field(default_factory=list)
    drop: list[int] = field(default_factory=list)
    sent: int = 0
    asked: list[str] = field(default_factory=list)
    connections: int = 0
    at_once: int = 0
    _busy: int = 0
    _free_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        with self.lock:
            self._busy += 1
            self.at_once = max(self.at_once, self._busy)

    def end(self) -> None:
        with self.lock:
            self._busy -= 1

    def pass_on(self, count: int) -> None:
        """Count bytes, and wait until the line has room for them."""
        with self.lock:
            self.sent += count
            if self.rate is None:
                return
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + count / self.rate
            wait = self._free_at - now
        time.sleep(max(0.0, wait))


class _Handler(BaseHTTPRequestHandler):
    # Headers and body go out apart: the second would wait 40 ms for the first to be acknowledged.
    disable_nagle_algorithm = True
    protocol_version = "HTTP/1.1"
    server: RangeServer

    def setup(self) -> None:
        super().setup()
        with self.server.network.lock:
            self.server.network.connections += 1

    def do_GET(self) -> None:
        network = self.server.network
        network.begin()
        try:
            self._answer(network)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            network.end()

    def _answer(self, network: Network) -> None:
        time.sleep(network.latency)
        path = self.path.partition("?")[0].lstrip("/")
        with network.lock:
            network.asked.append(f"{path} {self.headers.get('Range', '')}".strip())
            status = network.refuse.pop(0) if network.refuse else 0
        body = self.server.files.get(path)
        if status or body is None:
            self._head(status or 404, 0)
            return
        span, size = self.headers.get("Range"), body.size
        if span is None or not network.ranges:
            first, last = 0, size - 1
            self._head(200, size)
        else:
            begin, _, end = span.removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or size - 1), size - 1)
            if first >= size:
                self._head(416, 0)
                return
            self._head(206, last + 1 - first, f"bytes {first}-{last}/{size}")
        with network.lock:
            left = network.drop.pop(0) if network.drop and last + 1 - first > network.drop[0] else None
        for at in range(first, last + 1, _CHUNK):
            data = body.read(at, min(at + _CHUNK, last + 1))
            if left is not None:
                data, left = data[:left], left - min(left, len(data))
            network.pass_on(len(data))
            self.wfile.write(data)
            if left == 0:
                self.close_connection = True
                return

    def _head(self, status: int, length: int, span: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if span is not None:
            self.send_header("Content-Range", span)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class RangeServer(ThreadingHTTPServer):
    """A server of some files, by their paths."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, files: Mapping[str, Body], network: Network) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.network = network

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Keep quiet: a client that has enough goes away."""


def folder(path: Path) -> dict[str, Body]:
    """Return the files of a directory as what a server serves."""
    return {str(file.relative_to(path)): OnDisk(file) for file in path.rglob("*") if file.is_file()}


@contextmanager
def serving(files: Mapping[str, Body], network: Network | None = None) -> Iterator[RangeServer]:
    """Serve files for the length of a ``with`` block."""
    server = RangeServer(files, network or Network())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    from benchmarks.made_up import MODELS

    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=sorted(MODELS))
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--rate", type=float)
    given = parser.parse_args()
    with serving(MODELS[given.name](), Network(given.latency, given.rate)) as server:
        print(server.address, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
