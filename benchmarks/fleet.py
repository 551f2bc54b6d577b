"""What a fleet itself costs: stored reports as tasks of a real Ray (`python -m benchmarks.fleet`).

Nothing is measured of a model: what is left is Ray's, the storage's and the index's. The driver's memory is
read while it goes on, then once more with the index written.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

from superweight.fleet import Counts, run

REPORTS = sorted(Path(__file__).resolve().parents[1].glob("docs/gallery/*.json"))
FLEET = '[options]\nmode = "report"\npages = false\n[[models]]\nmodel = "reports/*.json"\n'


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--models", type=int, default=10_000)
    asked.add_argument("--cores", type=int, default=2)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "reports").mkdir()
        for place in range(given.models):
            shutil.copyfile(REPORTS[place % len(REPORTS)], folder / "reports" / f"{place:06}.json")
        (folder / "fleet.toml").write_text(FLEET, encoding="utf-8")
        for what in ("every model new", "every model done before"):
            _measured(what, folder, given.cores)
        size = (folder / "out" / "index.json").stat().st_size
        rows = len(json.loads((folder / "out" / "index.json").read_text(encoding="utf-8"))["models"])
        print(f"index.json: {rows} models, {size / 1e6:.1f} MB; row by row {size / rows:.0f} bytes")


def _measured(what: str, folder: Path, cores: int) -> None:
    seen: dict[int, int] = {}
    first = last = 0.0

    def note(counts: Counts) -> None:
        nonlocal first, last
        last = time.monotonic()
        if counts.done and not first:
            first = last
        seen.setdefault(counts.done // 1000, _resident())

    begun = time.monotonic()
    result = run(folder / "fleet.toml", folder / "out", cpus=cores, progress=note)
    ended = time.monotonic()
    total = sum(result.counts.values())
    print(f"{what}: {total} models on {cores} cores, {dict(result.counts)}, {result.reused} done before")
    print(
        f"  to the first row {first - begun:.1f} s; then {last - first:.1f} s, "
        f"{1000 * (last - first) / total:.1f} ms a model; index and end {ended - last:.1f} s"
    )
    steps = ", ".join(f"{1000 * step}: {held // 2**20}" for step, held in sorted(seen.items()))
    print(f"  the driver's memory in MiB by models done: {steps}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
    print(f"  with the index: {_resident() // 2**20} MiB, at most {peak} MiB so far", flush=True)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
