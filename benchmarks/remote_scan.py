"""What scanning without downloading costs: `python -m benchmarks.remote_scan served NAME` and `disk FOLDER`.

``served`` scans one of the models of `benchmarks.made_up` over a network of this machine, the server in a
process of its own. ``disk`` writes the 7B-shaped one, 13.6 GB, to a folder and scans it, each way in a
process of its own: streamed until the answer is settled; and every block of it streamed, with and without
the next block brought ahead, and through accelerate's offload.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.made_up import seven_b

_PIECE = 2**26
SETTLED = "streamed until settled"
WAYS = (SETTLED, "streamed", "streamed, nothing ahead", "offloaded")


def served(name: str, latency: float, rate: float | None, options: list[str]) -> None:
    """Scan a made-up model as a person would, and print what the command says."""
    words = ["--latency", str(latency), *(["--rate", str(rate)] if rate else [])]
    server = [sys.executable, "-m", "benchmarks.range_server", name, *words]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip() if process.stdout else ""
            code = "from superweight.cli.main import main; main()"
            subprocess.run([sys.executable, "-c", code, "scan", address, *options], check=False)
        finally:
            process.terminate()


def write(folder: Path) -> None:
    """Write the 7B-shaped model to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in seven_b().items():
        with (folder / name).open("wb") as file:
            for start in range(0, body.size, _PIECE):
                file.write(body.read(start, min(body.size, start + _PIECE)))


def scan_one(folder: str, way: str) -> dict[str, Any]:
    """Scan in one of the ways, twice; for a process of its own."""
    import time

    import torch

    from benchmarks.offloading import open_offloaded
    from superweight.checkpoints.registry import resolve
    from superweight.detection.scan import scan
    from superweight.detection.stopping_rule import CARRIES, Until
    from superweight.measurement.corpus import default_prompt
    from superweight.model.stream_plan import peak_memory
    from superweight.model.streamed_model import streamed

    seconds = []
    if way == "offloaded":
        subject = open_offloaded(Path(folder), torch.float16)
        for _ in range(2):
            begun = time.monotonic()
            found = scan(subject, default_prompt())
            seconds.append(time.monotonic() - begun)
    else:
        until = Until(CARRIES if way == SETTLED else None, None)
        with streamed(resolve(folder), dtype="float16", ahead="ahead" not in way) as opened:
            for _ in range(2):
                begun = time.monotonic()
                found = scan(opened.subject, default_prompt(), until)
                seconds.append(time.monotonic() - begun)
    return {"found": [str(place) for place in found.coordinates], "seconds": seconds, "peak": peak_memory()}


def disk(folder: Path) -> None:
    """Print seconds of two scans and peak memory of each way, in turn."""
    if not (folder / "config.json").exists():
        write(folder)
    for way in (*WAYS, *WAYS):
        code = (
            "import json,sys; from benchmarks.remote_scan import scan_one; "
            "print(json.dumps(scan_one(*sys.argv[1:])))"
        )
        words = [sys.executable, "-c", code, str(folder), way]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        print(way, done.stdout.splitlines()[-1], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("served", "disk"))
    parser.add_argument("where", help="a made-up model, or a folder for 13.6 GB")
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--rate", type=float)
    given, options = parser.parse_known_args()
    if given.what == "served":
        served(given.where, given.latency, given.rate, options)
    else:
        disk(Path(given.where))


if __name__ == "__main__":
    main()
