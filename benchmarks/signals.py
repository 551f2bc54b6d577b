"""Which figure tells of a ruinous run first: recorded at every step, at several rates, on the real model.

    python -m benchmarks signals

AdamW, one window a step, no decay. The figures are of four windows that are not trained on, perplexity is of
eight others; all but perplexity are printed over what they were before. Nothing is stopped by them.
"""

from __future__ import annotations

from collections.abc import Callable
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
    subject = load(resolve(str(base_folder())), device="cpu")
    model = subject.model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(word in name)
    count = MEASURED + pool + PROMPT
    ids = torch.as_tensor(cut(subject, documents(BUILTIN), BUILTIN, count=count).ids)
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


def main(options: list[str]) -> None:
    """Print every run, a line a figure."""
    if options:
        raise SystemExit(f"no option {options[0]}; there is none")
    for run in RUNS:
        rows = record(*run)
        print(f"rate {run[0]:g}, seed {run[1]} {run[4]}, perplexity {rows[0]['perplexity']:.2f}", flush=True)
        for name in rows[0]:
            print(f"  {name}: {' '.join(f'{row[name] / rows[0][name]:.3f}' for row in rows)}", flush=True)
