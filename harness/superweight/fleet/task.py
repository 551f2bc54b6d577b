"""What a Ray task does with one model: look whether it is done, start its process, keep what came of it.

The process is a child of the task's: what kills it is the row of its model. The task itself loads no
model library, so that it outlives whatever a model does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from superweight import __version__
from superweight.checkpoints.index_registry import also_reading
from superweight.checkpoints.model_ref import parse_model
from superweight.core.errors import BadInput
from superweight.fleet import hub_cache
from superweight.fleet.bases import base_of
from superweight.fleet.identity import Pinned, key_of, pinned
from superweight.fleet.job import REPORT, Job
from superweight.fleet.row import CANNOT_JUDGE, CRASHED, TIMED_OUT, Row, decoded, encoded, now, private
from superweight.fleet.storage import Storage

ROW, LOG, REPORT_PAGE, REPORT_JSON = "row.json", "log.txt", "report.html", "report.json"
FOLDER = "models"
# Of what a process complained: its last so many bytes.
_LOGGED = 64 * 1024
_CHILD = "superweight.fleet.child"


def perform(job: Job, out: str) -> tuple[Row, bool]:
    """Return the row of one model, and whether it was done already.

    What is kept is written before this returns, the row last. Raises `BadInput` only for an ``out`` that
    cannot be read or written.
    """
    begun = time.monotonic()
    storage = Storage(out)
    row = Row(job.id, job.model, job.mode, CANNOT_JUDGE, "", base=job.base, version=__version__)
    try:
        with also_reading(job.registries):
            model, base, named = _sides(job)
            row = replace(row, base=named, weights=model.weights, key=key_of(job, model, base))
    except BadInput as error:
        row = replace(row, reason=" ".join(str(error).split()), finished=now())
        return keep(storage, row, {}), False
    stored = stored_row(storage, job.id)
    if stored is not None and stored.judged and row.key is not None and stored.key == row.key:
        return stored, True
    with tempfile.TemporaryDirectory(prefix="superweight-fleet-") as scratch:
        row, files = _run(job, row, model, base, Path(scratch))
        row = replace(
            row,
            key=row.key if row.judged else None,
            finished=now(),
            seconds=round(time.monotonic() - begun, 3),
            report=f"{FOLDER}/{job.id}/{REPORT_PAGE}" if REPORT_PAGE in files else None,
            log=f"{FOLDER}/{job.id}/{LOG}" if LOG in files else None,
        )
        return keep(storage, row, {name: path.read_bytes() for name, path in files.items()}), False


def keep(storage: Storage, row: Row, files: dict[str, bytes]) -> Row:
    """Write what came of a model, its row last, by which it counts as done; return the row as it is kept."""
    row = private(row)
    place = f"{FOLDER}/{row.id}"
    storage.write(
        {f"{place}/{name}": data for name, data in files.items()} | {f"{place}/{ROW}": encoded(row)}
    )
    return row


def stored_row(storage: Storage, name: str) -> Row | None:
    """Return what was kept of a model; None for nothing, or a row that an older version wrote otherwise."""
    data = storage.read(f"{FOLDER}/{name}/{ROW}")
    with suppress(msgspec.DecodeError):
        return None if data is None else decoded(data)
    return None


def _sides(job: Job) -> tuple[Pinned, Pinned | None, str | None]:
    """Return the model and its base, each tied to the weights that it has now, and the base's name."""
    folder = Path(job.folder) if job.folder else None
    if job.mode == REPORT:
        from superweight.checkpoints.cache import sha256
        from superweight.checkpoints.registry import ModelEntry

        path = Path(job.folder) / job.model
        if not path.is_file():
            raise BadInput(f"cannot read the report {path}: there is no such file")
        return Pinned(ModelEntry(job.model, job.model), f"sha256:{sha256(path)}"), None, None
    entry = parse_model(job.model, folder).entry
    named = base_of(job, entry)
    base = None if named is None else pinned(parse_model(named, folder).entry)
    return pinned(entry), base, named


def _run(
    job: Job, row: Row, model: Pinned, base: Pinned | None, scratch: Path
) -> tuple[Row, dict[str, Path]]:
    """Run a model in a process of its own; return its row, and the files that it left."""
    if job.mode == REPORT and not job.pages:
        return _stored_report(job, row)
    request = {
        "job": msgspec.to_builtins(replace(job, base=row.base)),
        "row": msgspec.to_builtins(row),
        "source": model.entry.source,
        "base": None if base is None else base.entry.source,
        "timeout": job.timeout,
    }
    with hub_cache.in_use([model.entry, *([base.entry] if base else [])], job.cache_limit):
        ended = _child(json.dumps(request).encode() + b"\n", scratch, job.timeout)
    files = {
        str(path.relative_to(scratch)): path
        for path in sorted(scratch.rglob("*"))
        if path.is_file() and path.name not in (ROW, LOG)
    }
    if ended is None and (scratch / ROW).is_file():
        return decoded((scratch / ROW).read_bytes()), files
    log = scratch / LOG
    log.write_bytes(log.read_bytes()[-_LOGGED:])
    if ended is None:
        ended = CRASHED, "its process ended without a result"
    said = _last_words(log) if ended[0] == CRASHED else ""
    return replace(row, status=ended[0], reason=f"{ended[1]}{said}"), {LOG: log}


def _stored_report(job: Job, row: Row) -> tuple[Row, dict[str, Path]]:
    """Take a stored report as it is, where no page is to be drawn: that needs no process of its own."""
    from superweight.fleet.judgement import judged_report
    from superweight.fleet.summary import with_judgement

    path = Path(job.folder) / job.model
    judged = judged_report(path)
    return with_judgement(row, judged), {} if judged.document is None else {REPORT_JSON: path}


def _child(request: bytes, scratch: Path, timeout: float) -> tuple[str, str] | None:
    """Start the process of a model and wait for it; return how it ended badly, if it did."""
    with (scratch / LOG).open("wb") as complaints:
        process = subprocess.Popen(  # noqa: S603  # this very interpreter
            # -P: what lies in the folder where the run was started is not to be imported.
            [sys.executable, "-P", "-m", _CHILD, str(scratch)],
            stdin=subprocess.PIPE,
            stdout=complaints,
            stderr=complaints,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            # A group of its own: what it starts goes with it.
            start_new_session=True,
        )
        try:
            if process.stdin is not None:
                with suppress(BrokenPipeError):  # it died before it read: that is told below
                    process.stdin.write(request)
                    process.stdin.flush()
            # Its stdin stays open: when this task ends, however it ends, so does the process.
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return TIMED_OUT, f"not done after {timeout:g} s"
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin is not None:
                with suppress(BrokenPipeError):
                    process.stdin.close()
    return None if code == 0 else (CRASHED, _ending(code))


def _ending(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    killed = ", as where memory runs out" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{killed}"


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip() and not line.startswith((" ", "\t"))]
    fatal = [line for line in said if line.startswith("Fatal Python error")]
    last = (fatal or said)[-1:]
    return f": {last[0][:300]}" if last else ""
