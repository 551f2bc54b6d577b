"""Run the benchmark, print its table, and keep it: `python -m benchmarks [GROUP ...]`.

`python -m benchmarks others FILE.gguf ...` adds what the claims of other models take.

`python -m benchmarks gate` is another matter: it takes an hour, and asks whether the release gate is right.
So is `python -m benchmarks engines`, which sets llama.cpp beside transformers.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

from benchmarks import (
    causes,
    finding,
    gate,
    kernels,
    offloading,
    on_cuda,
    plan,
    precision,
    protection,
    proving,
    repair,
    signals,
    starting,
    training,
)
from benchmarks.page import put
from benchmarks.timing import Row
from superweight.checkpoints.registry import resolve
from superweight.model.loading import load
from superweight.model.subject import Subject

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"
BEGIN = {
    "cpu": "<!-- table: python -m benchmarks -->",
    "cuda": "<!-- table: python -m benchmarks, on CUDA -->",
}


def machine() -> dict[str, str | int]:
    """Describe what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    gpu = {"GPU": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": model,
        "threads": torch.get_num_threads(),
        "device": "cuda" if gpu else "cpu",
        **gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def as_markdown(rows: list[Row], described: dict[str, str | int]) -> str:
    """Return the table under one line on the machine."""
    head = ", ".join(f"{name} {value}" for name, value in described.items())
    lines = [f"Measured on: {head}. Ratios and seconds are medians (least to greatest).", ""]
    lines += ["| | what | figure | aim | |", "|---|---|---|---|---|"]
    lines += [f"| {row.group} | {row.what} | {row.figure} | {row.aim} | {row.verdict} |" for row in rows]
    return "\n".join(lines)


def main(wanted: list[str], others: list[str]) -> None:
    described = machine()
    real: list[Subject] = []

    def on_real(rows: Callable[[Subject], list[Row]]) -> Callable[[], list[Row]]:
        def run() -> list[Row]:
            real[:] = real or [load(resolve(starting.MODEL), dtype="float32")]
            return rows(real[0])

        return run

    def of_large() -> list[Row]:
        with on_cuda.large() as subject:
            group = f"proving, {subject.model.num_parameters():,} random parameters in Llama-7B's shape"
            return proving.whole_check(group, subject)

    groups: dict[str, Callable[[], list[Row]]] = {
        "starting": starting.rows,
        "finding": on_real(finding.rows),
        "proving": on_real(proving.rows),
        "others": lambda: proving.of_others(load(resolve(name), dtype="float32") for name in others),
        "precision": precision.rows,
    }
    if described["device"] == "cuda":
        groups |= {"cuda": on_real(on_cuda.rows), "large": of_large}
    else:
        groups |= {"offloading": offloading.rows, "kernels": on_real(kernels.rows), "plan": plan.rows}
    if unknown := set(wanted) - groups.keys():
        sys.exit(f"no group {', '.join(sorted(unknown))}; there are {', '.join(groups)}")
    kept = RESULTS / f"{described['device']}.json"
    known = json.loads(kept.read_text())["groups"] if kept.exists() else {}
    # What was measured of other models stays, unless some are named.
    for name in wanted or [group for group in groups if others or group != "others"]:
        known[name] = [asdict(row) for row in groups[name]()]
        kept.write_text(json.dumps({"machine": described, "groups": known}, indent=2) + "\n")
    rows = [Row(**row) for name in groups for row in known.get(name, [])]
    table = as_markdown(rows, described)
    print(table)
    put(table, PAGE, BEGIN[str(described["device"])])


if __name__ == "__main__":
    # Each of these is another matter, and takes minutes to an hour.
    others = {
        "gate": gate.main,
        "causes": causes.main,
        "repair": repair.main,
        "protection": protection.main,
        "signals": signals.main,
        "training": training.main,
    }
    if sys.argv[1:2] and sys.argv[1] in others:
        others[sys.argv[1]](sys.argv[2:])
    elif sys.argv[1:2] == ["engines"]:
        from benchmarks import engines  # needs llama.cpp, which the others do without

        engines.main(sys.argv[2:])
    else:
        named = [word for word in sys.argv[1:] if Path(word).exists()]
        main([word for word in sys.argv[1:] if word not in named], named)
