"""Precision: whether bfloat16 gives the coordinates and verdicts of float32, and what it saves."""

from __future__ import annotations

import torch

from benchmarks.timing import Row, in_turn, ratios
from superweight.checkpoints.registry import resolve
from superweight.claims.catalogue import CLAIMS, SEQUENTIAL
from superweight.claims.evidence import Evidence
from superweight.detection.scan import scan
from superweight.measurement.corpus import default_prompt
from superweight.model.loading import load
from superweight.model.subject import Subject

DTYPES = ("float32", "bfloat16")
MODELS = ("tiny-planted", "tiny-plain", "tiny-tuned", "smollm2-135m-instruct-q4_1")


def rows() -> list[Row]:
    """Return one line a model on agreement, and one on time for the last, the real one."""
    found = []
    for name in MODELS:
        subjects = {dtype: load(resolve(name), dtype=dtype) for dtype in DTYPES}
        places = {dtype: scan(subject, default_prompt()).coordinates for dtype, subject in subjects.items()}
        verdicts = {dtype: _every_claim(subject) for dtype, subject in subjects.items()}
        apart = [
            f"{claim} {status}, {verdicts['bfloat16'][claim]}"
            for claim, status in verdicts["float32"].items()
            if status != verdicts["bfloat16"][claim]
        ]
        if places["float32"] != places["bfloat16"]:
            apart.append("the coordinates")
        found.append(
            Row("precision", f"{name}: what differs, float32 against bfloat16", "; ".join(apart) or "nothing")
        )
    ids = torch.randint(0, 1000, (8, 256), generator=torch.Generator().manual_seed(3))
    ids = ids.to(subjects["float32"].device)

    def forward(dtype: str) -> None:
        with torch.no_grad():
            subjects[dtype].model(input_ids=ids, use_cache=False)

    seconds = in_turn({dtype: lambda dtype=dtype: forward(dtype) for dtype in subjects}, 3)
    saved = ratios(seconds, "float32", "bfloat16")
    whole = in_turn(
        {dtype: lambda dtype=dtype: _every_claim(subjects[dtype]) for dtype in subjects}, 1, warm=False
    )
    return [
        *found,
        Row("precision", "float32 over bfloat16, a forward pass over 2,048 tokens", str(saved)),
        Row("precision", "float32 over bfloat16, C1 to C13", f"{ratios(whole, *DTYPES).median:.3g}"),
    ]


def _every_claim(subject: Subject) -> dict[str, str]:
    """Judge C1 to C13 from nothing, and return the verdicts."""
    evidence = Evidence(subject, "builtin", tests=SEQUENTIAL)
    return {claim.id: evidence.verdict(judge).status for claim, judge in CLAIMS.items()}
