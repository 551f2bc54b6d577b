"""The process in which one model is run: started by a task with a folder, told its job on stdin.

It writes what came of it into the folder, row.json last. It ends when stdin does, which is when the
task ends: nothing is left running that nobody waits for.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
from pathlib import Path

from superweight.core.atomic import write_whole

# Beyond the timeout, at which the task ends this process: for one whose task was killed in a loop of C.
_GRACE = 60.0


def main() -> None:
    """Read the job, do it, write the files."""
    folder, request = Path(sys.argv[1]), json.loads(sys.stdin.buffer.readline())
    faulthandler.enable()
    faulthandler.dump_traceback_later(request["timeout"] + _GRACE, exit=True)
    threading.Thread(target=_end_with_task, daemon=True).start()

    import msgspec

    from superweight.checkpoints.index_registry import also_reading
    from superweight.fleet.job import Job
    from superweight.fleet.judge import judge
    from superweight.fleet.row import Row, encoded
    from superweight.fleet.summary import with_judgement

    job, row = msgspec.convert(request["job"], Job), msgspec.convert(request["row"], Row)
    with also_reading(job.registries):
        judged = judge(job, request["source"], request["base"])
    files = _report(judged.document, pages=job.pages)
    if judged.scan is not None:
        files["scan.json"] = json.dumps(judged.scan, indent=2).encode()
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    write_whole({folder / "row.json": encoded(with_judgement(row, judged))})


def _report(document: object, *, pages: bool) -> dict[str, bytes]:
    if not isinstance(document, dict):
        return {}
    from superweight.report.document import dumped

    contents = {"report.json": dumped(document).encode()}
    if pages:
        # Draws with matplotlib, which JSON alone does without.
        from superweight.report.output import rendered
        from superweight.report.privacy import without_home

        contents |= rendered(without_home(document))
    return contents


def _end_with_task() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
