"""A server of this machine that keeps the files of one dataset as the hub does: commits, trees, downloads."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

REPO = "org/nights"


@dataclass
class Dataset:
    """What a dataset holds, by path, and the files of each commit so far.

    ``overtaken`` is how many of the next commits are refused, as by one that came a moment earlier.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[list[str]] = field(default_factory=list)
    overtaken: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def commit(self, lines: list[dict[str, Any]]) -> bool:
        """Do what a commit says, all of it or, where a file to be removed is not there, nothing."""
        added = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        removed = [line["value"]["path"] for line in lines if line["key"] == "deletedFile"]
        with self.lock:
            if not self.files.keys() >= set(removed):
                return False
            self.files |= added
            for path in removed:
                del self.files[path]
            self.commits.append([*added, *removed])
        return True

    def entry(self, path: str) -> dict[str, Any] | None:
        """Return what the hub tells of a path; None where there is nothing."""
        if path in self.files:
            data = self.files[path]
            return {
                "type": "file",
                "path": path,
                "size": len(data),
                "oid": hashlib.sha1(data).hexdigest(),  # noqa: S324  # git's
            }
        if not path or any(name.startswith(f"{path}/") for name in self.files):
            return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
        return None

    def tree(self, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
        start = f"{folder}/" if folder else ""
        below = [name.removeprefix(start) for name in self.files if name.startswith(start)]
        found = set()
        for name in below:
            parts = name.split("/")
            found |= {"/".join(parts[:end]) for end in range(1, len(parts) + 1 if recursive else 2)}
        return [entry for name in sorted(found) if (entry := self.entry(start + name))]


class _Answer(BaseHTTPRequestHandler):
    # Headers and body go out apart: the second would wait 40 ms for the first to be acknowledged.
    disable_nagle_algorithm = True
    protocol_version = "HTTP/1.1"

    @property
    def dataset(self) -> Dataset:
        return self.server.dataset  # type: ignore[attr-defined,no-any-return]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        asked = urlparse(self.path)
        path = unquote(asked.path)
        file, tree = f"/datasets/{REPO}/resolve/main/", f"/api/datasets/{REPO}/tree/main"
        if path in (f"/api/datasets/{REPO}", f"/api/datasets/{REPO}/revision/main"):
            self._json({"id": REPO, "sha": "0" * 40, "siblings": [], "private": False, "tags": []})
        elif path.startswith(file) and (data := self.dataset.files.get(path.removeprefix(file))) is not None:
            self._send(200, data)
        elif path.startswith(tree):
            entries = self.dataset.tree(
                path.removeprefix(tree).strip("/"), recursive="recursive=true" in asked.query
            )
            self._json(entries) if entries else self._send(404, b"{}", "EntryNotFound")
        else:
            self._send(404, b"{}", "EntryNotFound" if REPO in path else "RepoNotFound")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlparse(self.path).path
        if path == f"/api/datasets/{REPO}/preupload/main":
            files = [{"path": item["path"], "uploadMode": "regular"} for item in json.loads(body)["files"]]
            self._json({"files": [{**item, "shouldIgnore": False} for item in files]})
        elif path == f"/api/datasets/{REPO}/commit/main" and self.dataset.overtaken:
            self.dataset.overtaken -= 1
            self._send(412, b'{"error": "A commit has happened since. Please refresh and try again."}')
        elif path == f"/api/datasets/{REPO}/commit/main":
            if not self.dataset.commit([json.loads(line) for line in body.splitlines()]):
                self._send(404, b"{}", "EntryNotFound")
                return
            self._json({"commitUrl": f"/{REPO}/commit/0", "commitOid": "0" * 40, "success": True})
        elif path == f"/api/datasets/{REPO}/paths-info/main":
            paths = parse_qs(body.decode()).get("paths", [])
            self._json([entry for name in paths if (entry := self.dataset.entry(name)) is not None])
        else:
            self._send(404, b"{}", "RepoNotFound")

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode())

    def _send(self, code: int, body: bytes, error: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')  # noqa: S324  # git's
        self.send_header("X-Repo-Commit", "0" * 40)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@contextmanager
def dataset_hub() -> Iterator[tuple[str, Dataset]]:
    """Serve one empty dataset; yield the address of its hub, and what it holds."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        server.dataset = Dataset()  # type: ignore[attr-defined]
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", server.dataset  # type: ignore[attr-defined]
        server.shutdown()
