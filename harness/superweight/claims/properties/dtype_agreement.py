"""P5: float32, bfloat16 and float16 agree on the set."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import accelerate
import torch

from superweight.claims.evidence import Evidence
from superweight.claims.paper.one_pass import agree
from superweight.claims.properties.search import Budget, Finding, search, verdict_of
from superweight.claims.verdict import Claim, Verdict, not_applicable
from superweight.core.errors import NotFinite
from superweight.detection.detect import detect
from superweight.detection.run_trace import trace_batch
from superweight.detection.trace import Trace
from superweight.model.architecture import inspect_architecture
from superweight.model.subject import Subject, free
from superweight.strategies import Prompt, prompts

CLAIM = Claim("P5", "float32, bfloat16 and float16 agree on the set.", "section 3.1")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SAME, ANOTHER, OVERFLOW = "the same set", "another set", "overflow"
_MOST_TOKENS = 24


def judge(evidence: Evidence, budget: Budget) -> Verdict:
    """Run a copy of the model in each other dtype over the same prompts.

    float16 is left out where the activation does not fit in it. Raises `BadInput` as `Evidence` does.
    """
    scan, subject = evidence.scan, evidence.subject
    if not scan.coordinates:
        return not_applicable(CLAIM, "no super weight is found")
    if not all(projection.writable for projection in subject.architecture.projections):
        return not_applicable(CLAIM, "its matrices are packed or offloaded, so it cannot be cast")
    if (short := _short_of_memory(subject)) is not None:
        return not_applicable(CLAIM, short)
    others = [dtype for dtype in DTYPES if dtype != subject.model.dtype]
    tight = [dtype for dtype in others if scan.largest > torch.finfo(dtype).max]
    searches = {}
    for dtype in [dtype for dtype in others if dtype not in tight]:
        with cast(subject, dtype) as other:

            def judge_all(examples: Sequence[Prompt], other: Subject = other) -> list[Finding]:
                try:
                    traces = trace_batch(other, [prompt.ids for prompt in examples])
                except NotFinite as error:
                    return [Finding(OVERFLOW, {"seen": str(error)}) for _ in examples]
                return [_finding(prompt, trace) for prompt, trace in zip(examples, traces, strict=True)]

            def _finding(prompt: Prompt, trace: Trace) -> Finding:
                detection = detect(trace)
                if agree(frozenset(scan.coordinates), scan.parts, detection):
                    return Finding(SAME)
                found = [str(place) for place in sorted(detection.coordinates)]
                return Finding(ANOTHER, {"text": prompt.text, "ids": list(prompt.ids), "found": found})

            name = str(dtype).removeprefix("torch.")
            strategy = prompts(subject, max_tokens=_MOST_TOKENS, bos=True)
            searches[f"in {name}"] = search(f"P5 {subject.name} {name}", strategy, judge_all, budget)
    return verdict_of(CLAIM, searches, too_small=[str(dtype).removeprefix("torch.") for dtype in tight])


@contextmanager
def cast(subject: Subject, dtype: torch.dtype) -> Iterator[Subject]:
    """Yield a copy of a subject in another dtype; the subject itself stays as it is."""
    model = copy.deepcopy(subject.model)
    torch.nn.Module.to(model, dtype)
    other = replace(subject, model=model, architecture=inspect_architecture(model))
    try:
        yield other
    finally:
        free(other)


def _short_of_memory(subject: Subject) -> str | None:
    """Say that a copy does not fit beside the model, where it does not."""
    size = sum(tensor.nbytes for tensor in subject.model.parameters())
    on_gpu = subject.device.type == "cuda"
    room = torch.cuda.mem_get_info(subject.device)[0] if on_gpu else _free_memory()
    # A copy in the same dtype is cast, so both are there for a moment.
    return None if 2 * size < room else f"there is no room for a copy of {size / 2**30:.1f} GiB beside it"


def _free_memory() -> int:
    return int(accelerate.utils.get_max_memory()["cpu"])
