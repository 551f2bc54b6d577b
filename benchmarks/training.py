"""Whether a watch stops a ruinous training run of the real model before its perplexity doubles.

    python -m benchmarks training

Runs of AdamW on the corpus's own text, one window a step: healthy, two ruinous ones, and one whose weight
decay is far too large. Perplexity is on eight windows that are not trained on. Written to
``results/training.json``.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gate import base_folder
from superweight.checkpoints.registry import resolve
from superweight.measurement.corpus import BUILTIN, cut, documents
from superweight.measurement.evaluate import perplexity
from superweight.model.loading import load
from superweight.training import watch

RESULTS = Path(__file__).parent / "results" / "training.json"
AT = ("11,507,1229", "11,507,1487")
STEPS, MEASURED = 24, 8
RUNS = {
    "healthy": {"lr": 1e-5, "weight_decay": 0.0},
    "ruinous": {"lr": 1e-3, "weight_decay": 0.0},
    "more ruinous": {"lr": 1e-2, "weight_decay": 0.0},
    "weight decay of 20": {"lr": 5e-4, "weight_decay": 20.0},
}


def run(name: str) -> dict[str, Any]:
    """Train until the watch tells to stop, or to the last step."""
    subject = load(resolve(str(base_folder())), device="cpu")
    model = subject.model
    held = cut(subject, documents(BUILTIN), BUILTIN, count=MEASURED + STEPS)
    ids = torch.as_tensor(held.ids)
    given = cut(subject, documents(BUILTIN), BUILTIN, count=MEASURED)
    intact = perplexity(subject, given)
    only = name.startswith("weight decay")
    parameters = [p for n, p in model.named_parameters() if not only or n.endswith("down_proj.weight")]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, **RUNS[name])
    watched = watch(model, AT, every=1, run_every=1, prompt=ids[MEASURED : MEASURED + 1])
    watched.step(0)
    rows, spent = [], [0.0, 0.0]
    for step in range(1, STEPS + 1):
        begun = time.monotonic()
        batch = ids[MEASURED + step - 1 : MEASURED + step]
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        # Weight decay alone, or the gradient would hide it.
        if only:
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        spent[0] += time.monotonic() - begun
        begun = time.monotonic()
        watched.values()
        spent[1] += time.monotonic() - begun
        reading = watched.step(step)
        row = {
            "step": step,
            "perplexity": perplexity(subject, given) if step % 4 == 0 or reading.reasons else None,
        }
        rows.append(row | {"figures": dict(reading.figures), "reasons": list(reading.reasons)})
        if reading.reasons:
            break
    return {"run": name, **RUNS[name], "intact": intact, "reading_share": spent[1] / spent[0], "steps": rows}


def main(options: list[str]) -> None:
    """Make every run, and keep what it showed."""
    if options:
        raise SystemExit(f"no option {options[0]}; there is none")
    found = []
    for name in RUNS:
        found.append(run(name))
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        last = found[-1]["steps"][-1]
        print(name, found[-1]["intact"], found[-1]["reading_share"], json.dumps(last), flush=True)
