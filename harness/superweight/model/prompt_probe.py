"""Run a prompt through a model in training, and leave the model as it was.

What is measured is the largest output of some projections on some channels, and the prompt's loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy


@dataclass(frozen=True)
class Probe:
    """What one pass showed: the largest magnitude, the dtype it was computed in, the loss in nats a token."""

    peak: float
    dtype: torch.dtype
    loss: float


def probe(
    model: nn.Module,
    rows: Mapping[nn.Module, Sequence[int]],
    prompt: torch.Tensor,
    autocast: torch.dtype | None = None,
) -> Probe:
    """Run ``prompt``, (rows, tokens) of ids, and look at the channels ``rows`` of what each module writes.

    Under FSDP and ZeRO-3 every rank must run it, and all get the same: the largest over the ranks.
    """
    seen: list[torch.Tensor] = []

    def look(module: nn.Module, given: Any, output: torch.Tensor) -> None:
        seen.append(output.detach()[..., list(rows[module])])

    hooks = [module.register_forward_hook(look) for module in rows]
    try:
        with torch.no_grad(), _in_evaluation(model), _cast(prompt.device.type, autocast):
            logits = model(input_ids=prompt, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    said = logits[:, :-1].float().transpose(1, 2)
    # A single token predicts nothing, and its loss is the sum of no numbers.
    loss = cross_entropy(said, prompt[:, 1:].to(said.device)) if prompt.shape[1] > 1 else said.sum()
    numbers = torch.stack([torch.stack([part.abs().max().float() for part in seen]).max(), loss])
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        # Ranks that differ in the last bit would else differ in whether they stop, and wait for ever.
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return Probe(float(numbers[0]), seen[0].dtype, float(numbers[1]))


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    """Leave training mode, and give each module back the mode that it had of its own."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _cast(device: str, dtype: torch.dtype | None) -> Iterator[None]:
    """Compute under an autocast of ``dtype``, or else the one that is at work.

    What it casts is not kept: it was cast without gradients, and torch 2.6, which this runs with
    too, would take it for the training's own, whose weights then get none.
    """
    active = torch.is_autocast_enabled(device)
    chosen = dtype or torch.get_autocast_dtype(device)
    with torch.autocast(device, chosen, enabled=active or dtype is not None, cache_enabled=False):
        yield
