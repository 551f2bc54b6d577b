"""Whether a watch stops a ruinous training run of the real model before its perplexity doubles.

    python -m benchmarks training

Runs of AdamW on the corpus's own text, one window a step: at healthy and at ruinous rates, and one whose
weight decay is far too large. The watch's prompt is four windows, perplexity is on eight others; neither is
trained on. Written to ``results/training.json``, on a GPU to
``results/training-cuda.json``; what is in it is not run again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.gate import base_folder
from benchmarks.timing import finished
from superweight.checkpoints.registry import resolve
from superweight.measurement.corpus import BUILTIN, cut, documents
from superweight.measurement.evaluate import perplexity
from superweight.model.loading import load
from superweight.training import watch

_NAME = "training-cuda.json" if torch.cuda.is_available() else "training.json"
RESULTS = Path(__file__).parent / "results" / _NAME
AT = ("11,507,1229", "11,507,1487")
STEPS, MEASURED, PROMPT = 24, 8, 4
# Seeds give the order of the windows; more than one at the rate where stopping in time is in doubt.
RUNS = {
    "rate 1e-3": {"lr": 1e-3, "weight_decay": 0.0, "seed": 0},
    "rate 1e-3, other order": {"lr": 1e-3, "weight_decay": 0.0, "seed": 2},
    "rate 1e-3, third order": {"lr": 1e-3, "weight_decay": 0.0, "seed": 3},
    "rate 2e-3": {"lr": 2e-3, "weight_decay": 0.0, "seed": 0},
    "rate 1e-2": {"lr": 1e-2, "weight_decay": 0.0, "seed": 0},
    "rate 1e-5": {"lr": 1e-5, "weight_decay": 0.0, "seed": 0},
    "rate 1e-4": {"lr": 1e-4, "weight_decay": 0.0, "seed": 0},
    "weight decay of 20": {"lr": 5e-4, "weight_decay": 20.0, "seed": 0},
    "rate 5e-4": {"lr": 5e-4, "weight_decay": 0.0, "seed": 0},
}


def run(name: str) -> dict[str, Any]:
    """Train until the watch tells to stop, or to the last step."""
    subject = load(resolve(str(base_folder())), dtype="float32")
    model = subject.model
    held = cut(subject, documents(BUILTIN), BUILTIN, count=MEASURED + PROMPT + STEPS)
    ids = torch.as_tensor(held.ids).to(subject.device)
    given = cut(subject, documents(BUILTIN), BUILTIN, count=MEASURED)
    intact = perplexity(subject, given)
    only = name.startswith("weight decay")
    parameters = [p for n, p in model.named_parameters() if not only or n.endswith("down_proj.weight")]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    chosen = RUNS[name]
    optimizer = torch.optim.AdamW(parameters, lr=chosen["lr"], weight_decay=chosen["weight_decay"])
    prompt = ids[MEASURED : MEASURED + PROMPT]
    order = torch.randperm(STEPS, generator=torch.Generator().manual_seed(int(chosen["seed"])))
    watched = watch(model, AT, every=1, run_every=1, prompt=prompt)
    watched.step(0)
    rows, spent = [], [0.0, 0.0]
    for step in range(1, STEPS + 1):
        begun = finished()
        batch = ids[MEASURED + PROMPT + order[step - 1 : step]]
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        # Weight decay alone, or the gradient would hide it.
        if only:
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        spent[0] += finished() - begun
        begun = finished()
        watched.values()
        spent[1] += finished() - begun
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
    """Make every run that is missing, and keep what it showed."""
    if options:
        raise SystemExit(f"no option {options[0]}; there is none")
    found: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    for name in RUNS:
        if any(row["run"] == name for row in found):
            continue
        found.append(run(name))
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        last = found[-1]["steps"][-1]
        print(name, found[-1]["intact"], found[-1]["reading_share"], json.dumps(last), flush=True)
