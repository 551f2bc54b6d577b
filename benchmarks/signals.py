"""Which figure tells of a ruinous run first: recorded at every step, at several rates, on the real model.

    python -m benchmarks signals
    python -m benchmarks signals orders

AdamW, one window a step, no decay. The figures are of four windows that are not trained on, perplexity is of
eight others; all but perplexity are printed over what they were before. Nothing is stopped by them.

``orders`` trains at four rates in many orders of the windows, and counts for several limits of the prompt's
perplexity how many of the runs that double it are stopped before they do, and how many of those that do no
harm are stopped. Written to ``results/orders.json``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from benchmarks.gate import base_folder
from superweight.checkpoints.registry import resolve
from superweight.measurement.corpus import BUILTIN, cut, documents
from superweight.model.loading import load

LAYER, ROW, COLUMNS = 11, 507, (1229, 1487)
MEASURED, PROMPT = 8, 4
# Rate, seed of the order, steps, windows that are trained on, and a word in the names of what is trained.
RUNS = (
    (1e-4, 0, 16, 34, ""),
    (3e-4, 0, 12, 34, ""),
    (5e-4, 1, 12, 34, ""),
    (1e-3, 0, 12, 34, ""),
    (1e-3, 1, 6, 34, ""),
    (1e-3, 1, 6, 34, "norm"),
    (2e-3, 0, 4, 34, ""),
)
Figures = dict[str, float]

ORDERS = Path(__file__).parent / "results" / "orders.json"
RATES, SEEDS, STEPS, POOL = (1e-4, 3e-4, 5e-4, 1e-3), 20, 12, 34
LIMITS = (1.1, 1.2, 1.3, 1.5, 2.0)
# Perplexity over what it was: twice is ruin, and what never rises over this has done no harm.
RUIN, HARMLESS = 2.0, 1.05


def losses(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return nats a token of each window: (windows,)."""
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    return cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").mean(1)


def figures(model: Any, held: torch.Tensor, prompt: torch.Tensor) -> Figures:
    """Return what one moment of the training shows."""
    seen: dict[str, torch.Tensor] = {}
    down = model.model.layers[LAYER].mlp.down_proj

    def look(module: Any, given: Any, output: torch.Tensor) -> None:
        seen.update(read=given[0].detach(), wrote=output.detach())

    def without(module: Any, given: Any, output: torch.Tensor) -> torch.Tensor:
        cut_out = output.clone()
        for column in COLUMNS:
            cut_out[..., ROW] -= module.weight.detach()[ROW, column] * given[0][..., column]
        return cut_out

    loss = _under(down, look, lambda: losses(model, prompt))
    pruned = _under(down, without, lambda: losses(model, prompt))
    wrote = seen["wrote"]
    norms = wrote.norm(dim=-1)
    own = sum(seen["read"][:, 0, column] * down.weight.detach()[ROW, column] for column in COLUMNS)
    return {
        "perplexity": float(losses(model, held).mean().exp()),
        "activation": float(wrote[..., ROW].abs().amax(1).mean()),
        "over the median write": float((wrote[..., ROW].abs().amax(1) / norms.median(1).values).mean()),
        "share of the write": float((torch.as_tensor(own).abs() / norms[:, 0]).mean()),
        "carried": float((pruned - loss).mean()),
        "scalar": float(down.weight.detach()[ROW, COLUMNS[0]]),
        "prompt's perplexity": float(loss.mean().exp()),
    }


def _under(module: Any, hook: Callable[..., Any], run: Callable[[], torch.Tensor]) -> torch.Tensor:
    handle = module.register_forward_hook(hook)
    try:
        return run()
    finally:
        handle.remove()


def record(rate: float, seed: int, steps: int, pool: int, word: str) -> list[Figures]:
    """Train for some steps, or to twice and a half the perplexity; the first entry is before them."""
    subject = load(resolve(str(base_folder())), dtype="float32")
    model = subject.model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(word in name)
    count = MEASURED + pool + PROMPT
    ids = torch.as_tensor(cut(subject, documents(BUILTIN), BUILTIN, count=count).ids).to(subject.device)
    held, prompt = ids[:MEASURED], ids[-PROMPT:]
    order = MEASURED + torch.randperm(pool, generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(
        (p for p in model.parameters() if p.requires_grad), lr=rate, weight_decay=0.0
    )
    found = [figures(model, held, prompt)]
    for step in range(1, steps + 1):
        batch = ids[order[step % pool]][None]
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(figures(model, held, prompt))
        if not found[-1]["perplexity"] < 2.5 * found[0]["perplexity"]:
            break
    return found


def train_in_order(model: Any, ids: torch.Tensor, rate: float, seed: int) -> list[list[float]]:
    """Return held-out perplexity and the prompt's after each step, over what they were: (steps + 1, 2)."""
    held, prompt = ids[:MEASURED], ids[-PROMPT:]
    order = MEASURED + torch.randperm(POOL, generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)

    def perplexities() -> torch.Tensor:
        return torch.stack([losses(model, held).mean().exp(), losses(model, prompt).mean().exp()])

    before, rows = perplexities(), [[1.0, 1.0]]
    for step in range(1, STEPS + 1):
        batch = ids[order[step % POOL]][None]
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        rows.append((perplexities() / before).tolist())
        if not rows[-1][0] < 2.5:
            break
    return rows


def of_orders() -> list[dict[str, Any]]:
    """Train at every rate in every order, each from the same weights."""
    subject = load(resolve(str(base_folder())), dtype="float32")
    intact = copy.deepcopy(subject.model.state_dict())
    ids = torch.as_tensor(cut(subject, documents(BUILTIN), BUILTIN, count=MEASURED + POOL + PROMPT).ids)
    ids = ids.to(subject.device)
    subject.model.requires_grad_(True)
    found = []
    for rate in RATES:
        for seed in range(SEEDS):
            subject.model.load_state_dict(intact)
            found.append({"rate": rate, "seed": seed, "rows": train_in_order(subject.model, ids, rate, seed)})
    return found


def stopped_at(rows: Sequence[Sequence[float]], limit: float) -> int | None:
    """Return the first step after which the prompt's perplexity is beyond the limit."""
    return next((step for step, (_, prompt) in enumerate(rows) if not prompt <= limit), None)


def of_limit(runs: Sequence[dict[str, Any]], limit: float) -> str:
    """Return one line of the table: what a limit stops, in time, late or for nothing."""
    ruinous = [run["rows"] for run in runs if not max(each for each, _ in run["rows"]) < RUIN]
    harmless = [run["rows"] for run in runs if max(each for each, _ in run["rows"]) <= HARMLESS]
    stops = [(rows, stopped_at(rows, limit)) for rows in ruinous]
    doubled = [next(step for step, (each, _) in enumerate(rows) if not each < RUIN) for rows in ruinous]
    in_time = sum(at is not None and at < end for (_, at), end in zip(stops, doubled, strict=True))
    at_once = sum(at == end for (_, at), end in zip(stops, doubled, strict=True))
    false = sum(stopped_at(rows, limit) is not None for rows in harmless)
    return (
        f"| {limit:g} | {in_time} of {len(ruinous)} | {at_once} | {len(ruinous) - in_time - at_once} "
        f"| {false} of {len(harmless)} |"
    )


def main(options: list[str]) -> None:
    """Print every run, a line a figure; or what several limits stop."""
    if options == ["orders"]:
        runs = of_orders()
        ORDERS.write_text(json.dumps(runs) + "\n", encoding="utf-8")
        for rate in RATES:
            peaks = sorted(max(each for each, _ in run["rows"]) for run in runs if run["rate"] == rate)
            print(f"rate {rate:g}: perplexity at most {peaks[0]:.2f} to {peaks[-1]:.2f} times what it was")
        print("| limit | before a doubling | at the step that doubles it | later or never | harmless runs |")
        print("|---|---|---|---|---|")
        for limit in LIMITS:
            print(of_limit(runs, limit))
        return
    if options:
        raise SystemExit(f"no option {options[0]}; there is orders")
    for run in RUNS:
        rows = record(*run)
        print(f"rate {run[0]:g}, seed {run[1]} {run[4]}, perplexity {rows[0]['perplexity']:.2f}", flush=True)
        for name in rows[0]:
            print(f"  {name}: {' '.join(f'{row[name] / rows[0][name]:.3f}' for row in rows)}", flush=True)
