"""On CUDA: host waits, kernels and memory of a look, as CUDA itself tells them."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import Row, aimed, in_turn, ratios, spread
from superweight.checkpoints.registry import resolve
from superweight.claims.catalogue import SEQUENTIAL
from superweight.claims.evidence import Evidence
from superweight.claims.plan import plan_of
from superweight.core.statistics import looks
from superweight.measurement import batched_ablation, evaluate
from superweight.model.loading import load
from superweight.model.subject import Subject, free
from tests.gpu.sizes import PRODUCT, SEVEN_B, TEXT
from tests.helpers.live_models import activity, set_scalars

GROUP = "on CUDA"
OURS = str(Path(evaluate.__file__).parents[1])
THEIRS = "/transformers/"
# Who tells of a wait is not who waits.
NOBODY = {__file__, warnings.__file__}


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """Count the host's waits for the device by whose code asks for them, and where."""
    counts: Counter[str] = Counter()

    def told(message: Any, *_: Any, **__: Any) -> None:
        if "called a synchronizing" not in str(message):
            return
        frames = [frame for frame in traceback.extract_stack() if frame.filename not in NOBODY]
        known = [frame for frame in frames if frame.filename.startswith(OURS) or THEIRS in frame.filename]
        last = known[-1] if known else frames[-1]
        counts[f"{Path(last.filename).name}:{last.name}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with patch.object(warnings, "showwarning", told):
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield counts
            finally:
                torch.cuda.set_sync_debug_mode("default")


def kernels(run: Callable[[], Any]) -> int:
    """Return how many kernels, copies and fills the device was given."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    return sum(event.count for event in profiled.key_averages() if event.device_time_total > 0)


def rows(subject: Subject) -> list[Row]:
    """Return the lines on a look of the real model."""
    return [*_look(subject), *_memory(subject)]


def _look(subject: Subject) -> list[Row]:
    evidence = Evidence(subject, "builtin")
    conditions, windows = evidence.conditions, evidence.windows.first(looks(len(evidence.windows.ids))[0])
    ids = torch.from_numpy(windows.ids).to(subject.device)
    nothing = torch.zeros(0, dtype=torch.long, device=subject.device)
    names = {condition.name for condition in conditions}

    def bare() -> None:
        with torch.no_grad():
            evaluate.log_probabilities(subject.model(input_ids=ids, use_cache=False).logits)

    def look() -> None:
        evaluate._fitting(subject, ids, conditions, nothing, names)

    def measured() -> None:
        evaluate.measure(subject, windows, conditions)

    seconds = in_turn({"bare": bare, "look": measured}, 5)
    with waits() as plain:
        bare()
    # What is fetched, and proven, when the look is over is left out.
    with patch.object(batched_ablation, "prove"), waits() as seen:
        look()
    tokens = f"{ids.numel():,} tokens"
    size = f"{len(ids)} windows, {len(conditions)} conditions"
    launched, pass_launches = kernels(measured), kernels(bare)
    where = ", ".join(f"{name} {count}" for name, count in seen.items()) or "nowhere"
    of_bare = ", ".join(f"{name} {count}" for name, count in plain.items()) or "nowhere"
    told = f"({launched:,}) over those of the pass ({pass_launches:,})"
    return [
        Row(GROUP, f"seconds of a bare pass over the first look's {tokens}", str(spread(seconds["bare"]))),
        Row(GROUP, f"the first look ({size}) over that pass", str(ratios(seconds, "look", "bare"))),
        Row(GROUP, f"kernels, copies and fills of the look {told}", f"{launched / pass_launches:.3g}"),
        Row(
            GROUP,
            f"times that the host waits inside a look ({where}), and in a bare pass ({of_bare})",
            f"{seen.total()}, {plain.total()}",
        ),
    ]


def _memory(subject: Subject) -> list[Row]:
    evidence = Evidence(subject, "builtin", tests=SEQUENTIAL)
    planned = plan_of(evidence).memory
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    evidence.sequential.first()
    most = torch.cuda.max_memory_allocated() - before
    told = f"{planned / 1e6:.0f} and {most / 1e6:.0f}"
    return [
        aimed(
            GROUP,
            f"megabytes of the first look, planned and measured ({told}), the one over the other",
            planned / most,
            least=1,
        )
    ]


@contextmanager
def large() -> Iterator[Subject]:
    """Yield a random model of Llama-7B's shape with a planted super weight."""
    subject = SEVEN_B.build(load(resolve("tiny-planted"), device="cpu"))
    try:
        with set_scalars(subject, {SEVEN_B.place: PRODUCT / activity(subject, SEVEN_B.place, TEXT)}):
            yield subject
    finally:
        free(subject)
