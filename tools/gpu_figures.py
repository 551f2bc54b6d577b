"""Measure what scanning costs against a bare forward pass, and write it to docs/gpu.md.

Run as ``python -m tools.gpu_figures`` on a machine with CUDA; with ``--small``, on any, to stdout only.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import accelerate
import torch
import transformers

from superweight.checkpoints.registry import resolve
from superweight.core import markdown
from superweight.detection.scan import scan
from superweight.model.devices import described, gib, present
from superweight.model.edits import Prune, edited
from superweight.model.loading import load
from superweight.model.placement import need
from superweight.model.subject import Subject
from tests.gpu.sizes import PRODUCT, SEVEN_B, SMALL, TEXT, Size
from tests.helpers.live_models import activity, set_scalars

PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->"
_RUNS = 7


def seconds(action: Callable[[], object], size: Size) -> float:
    """Return the median time of an action, once warm, until the device has finished it."""
    times = []
    for _ in range(_RUNS + 1):
        began = time.perf_counter()
        action()
        if size.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def measured(size: Size, template: Subject) -> dict[str, str]:
    """Return the figures of a planted model by what they say."""
    subject = size.build(template)
    ids = torch.tensor([subject.encode(TEXT)], device=subject.device)

    def forward() -> None:
        with torch.no_grad():
            subject.model(input_ids=ids, use_cache=False)

    def prune() -> None:
        with edited(subject, [Prune(size.place)]):
            pass

    with set_scalars(subject, {size.place: PRODUCT / activity(subject, size.place, TEXT)}):
        found = scan(subject, TEXT).coordinates
        bare = seconds(forward, size)
        scanning, pruning = seconds(lambda: scan(subject, TEXT), size), seconds(prune, size)
        figures = {
            "model": f"random Llama of {subject.model.num_parameters():,} parameters, {size.dtype}",
            "planted at, found at": f"{size.place}, {', '.join(map(str, found)) or 'nowhere'}",
            "bare forward pass": f"{bare * 1000:.3g} ms",
            "scan (two traced passes) over a bare pass": f"{scanning / bare:.3g}",
            "prune and restore over a bare pass": f"{pruning / bare:.3g}",
        }
    weights = sum(parameter.nbytes for parameter in subject.model.parameters())
    figures["planned for"] = gib(need(weights))
    if size.device == "cuda":
        figures["most memory taken"] = gib(torch.cuda.max_memory_allocated())
    return figures


def table(size: Size, today: datetime.date) -> str:
    """Return the figures as a page shows them: date, device, versions, a table."""
    template = load(resolve("tiny-planted"), device="cpu")
    rows = measured(size, template)
    device = described(present()) if size.device == "cuda" else f"CPU, {platform.machine()}"
    versions = (
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, accelerate {accelerate.__version__}"
    )
    lines = markdown.table(("figure", "measured"), list(rows.items()))
    return "\n".join([f"Run on {today}: {device}; {versions}.", "", *lines]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="the small model, on the CPU, to stdout")
    small = parser.parse_args().small
    if not small and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; --small runs anywhere")
    text = table(SMALL if small else SEVEN_B, datetime.datetime.now(tz=datetime.UTC).date())
    if small:
        print(text, end="")
        return
    PAGE.write_text(markdown.rewritten_between(PAGE, BEGIN, END, text), encoding="utf-8")


if __name__ == "__main__":
    main()
