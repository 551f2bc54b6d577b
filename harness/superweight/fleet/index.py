"""Write the index of a fleet from its rows: JSON, Parquet, JUnit, Markdown and a page.

What changed is told against the last run that came to its end. While a run goes on a marker lies beside
the index; an index that is written meanwhile says that it is not complete, and the next one is held to
the same older index again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib.resources import files
from typing import Any

import msgspec

from superweight import __version__
from superweight.checkpoints.registry_table import one_of
from superweight.core.errors import BadInput
from superweight.fleet.row import STATUSES, Row, decoded, differences, encoded, now, order
from superweight.fleet.storage import Storage
from superweight.fleet.task import FOLDER, ROW

INDEX, PREVIOUS, RUNNING = "index.json", "previous.json", "running.json"
SCHEMA = 1


class Document(msgspec.Struct):
    """An index.json as it is read: its rows are decoded one by one, as many do not fit twice."""

    models: list[msgspec.Raw]
    complete: bool = True
    written: str = ""
    schema: int = SCHEMA
    harness: str = ""

    @property
    def rows(self) -> Iterator[Row]:
        """The rows, in their order."""
        return (decoded(bytes(raw)) for raw in self.models)


def begin(storage: Storage) -> None:
    """Note that a run goes on."""
    storage.write({RUNNING: json.dumps({"began": now(), "harness": __version__}).encode()})


def finish(storage: Storage, rows: Callable[[], Iterable[Row]]) -> int:
    """Write the index of a run that came to its end; return how many models changed."""
    changed = _write(storage, rows(), complete=True, newer=True)
    storage.remove(RUNNING)
    return changed


def gather(storage: Storage) -> int:
    """Write the index anew from what is kept of each model; return how many there are.

    Raises `BadInput` where nothing is kept.
    """
    unfinished = storage.read(RUNNING) is not None
    rows = [decoded(data) for _, data in storage.found(f"{FOLDER}/*/{ROW}")]
    if not rows:
        raise BadInput(f"{storage.url} holds no rows of a fleet; give the --out of superweight fleet")
    _write(storage, rows, complete=not unfinished, newer=unfinished)
    return len(rows)


def read_index(data: bytes, name: str) -> Document:
    """Read an index.json. Raises `BadInput` naming it and the place in it."""
    try:
        document = msgspec.json.decode(data, type=Document)
        for row in document.rows:
            one_of("status", row.status, STATUSES)
    except (msgspec.DecodeError, UnicodeDecodeError, BadInput) as error:
        raise BadInput(
            f"{name} is no index.json of superweight fleet: {str(error).replace('`$.', '`')}"
        ) from error
    if document.schema > SCHEMA:
        raise BadInput(
            f"{name} is an index of schema {document.schema}, written by a newer version; update this one"
        )
    return document


def index_json(rows: Iterable[bytes], *, complete: bool) -> bytes:
    """Return index.json, given its rows as JSON."""
    head = {"schema": SCHEMA, "harness": __version__, "written": now(), "complete": complete}
    return json.dumps(head)[:-1].encode() + b', "models": [\n' + b",\n".join(rows) + b"\n]}\n"


def schema() -> dict[str, Any]:
    """Return the JSON Schema of index.json."""
    document: dict[str, Any] = json.loads(
        (files("superweight.fleet") / "schema.json").read_text(encoding="utf-8")
    )
    return document


def _write(storage: Storage, rows: Iterable[Row], *, complete: bool, newer: bool) -> int:
    stored = storage.read(INDEX)
    old = None if stored is None else read_index(stored, f"{storage.url}/{INDEX}")
    # An index of a run that did not end is nothing that a person has seen the end of.
    if newer and old is not None and old.complete and stored is not None:
        storage.write({PREVIOUS: stored})
        reference: Document | None = old
    else:
        kept = storage.read(PREVIOUS)
        reference = None if kept is None else read_index(kept, f"{storage.url}/{PREVIOUS}")
    before = (
        {}
        if reference is None
        else {row.id: raw for row, raw in zip(reference.rows, reference.models, strict=True)}
    )
    made = []
    for row in rows:
        raw = before.get(row.id)
        changed = () if raw is None else differences(decoded(bytes(raw)), row)
        row = replace(row, changed=changed)
        made.append((order(row), encoded(row)))
    made.sort()
    encoded_rows = [data for _, data in made]
    from superweight.fleet.index_files import index_files

    storage.write(
        index_files(encoded_rows, complete=complete) | {INDEX: index_json(encoded_rows, complete=complete)}
    )
    return sum(not keys[0] for keys, _ in made)
