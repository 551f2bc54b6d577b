"""A server of this machine that answers as the hub does: a search, a gated model, and nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

GATED = "google/gemma-3-270m"


class _Answer(BaseHTTPRequestHandler):
    # Headers and body go out apart: the second would wait 40 ms for the first to be acknowledged.
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        asked = urlparse(self.path)
        self.server.asked.append((asked.path, parse_qs(asked.query)))  # type: ignore[attr-defined]
        if asked.path == "/api/models" and self.server.models is not None:  # type: ignore[attr-defined]
            self._send(200, json.dumps(self.server.models).encode())  # type: ignore[attr-defined]
        elif GATED in asked.path:
            self._send(403, b"", "GatedRepo")
        else:
            self._send(404, b"", "RepoNotFound")

    def _send(self, code: int, body: bytes, error: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@contextmanager
def hub(models: Sequence[dict[str, Any]] | None = ()) -> Iterator[tuple[str, list[Any]]]:
    """Serve a hub; yield its address, and the list of what it was asked. With None it lists no models."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        server.models, server.asked = models, []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", server.asked  # type: ignore[attr-defined]
        server.shutdown()
