"""A package index of one wheel, served slowly enough to be interrupted."""

from __future__ import annotations

import hashlib
import io
import random
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REQUIREMENT, MEMBER = "slow-model==1.0", "slow_model/model.gguf"
WHEEL = "slow_model-1.0-py3-none-any.whl"
CHUNKS, PAUSE = 40, 0.02


@cache
def content() -> bytes:
    return random.Random(0).randbytes(1 << 20)  # noqa: S311  # no secret, and repeatable


@cache
def wheel() -> bytes:
    """Return the bytes of a wheel that pip accepts."""
    folder = "slow_model-1.0.dist-info"
    files = {
        MEMBER: content(),
        f"{folder}/METADATA": b"Metadata-Version: 2.1\nName: slow-model\nVersion: 1.0\n",
        f"{folder}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{folder}/RECORD": b"",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # of no date, so that the hash stays
    return buffer.getvalue()


def pins() -> tuple[str, str, str, str]:
    """Return what `fetch_member` is asked with."""
    hashes = (hashlib.sha256(data).hexdigest() for data in (wheel(), content()))
    return (REQUIREMENT, MEMBER, *hashes)


class Handler(BaseHTTPRequestHandler):
    # Headers and body go out apart: the second would wait 40 ms for the first to be acknowledged.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path.endswith(".whl"):
            self._send(wheel(), "application/zip")
        else:
            self._send(f'<a href="/{WHEEL}">{WHEEL}</a>'.encode(), "text/html")

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        step = max(1, len(body) // CHUNKS)
        try:
            for begin in range(0, len(body), step):
                self.wfile.write(body[begin : begin + step])
                time.sleep(PAUSE * (len(body) > CHUNKS * CHUNKS))
        except ConnectionError:
            pass  # whoever asked was stopped

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def served() -> Iterator[str]:
    """Serve the index for the length of a ``with`` block; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/simple"
    finally:
        server.shutdown()
        server.server_close()
