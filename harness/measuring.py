"""What edits do to a model's predictions: NLL, perplexity, KL, next-token probabilities.

All conditions are measured together, batch by batch: the intact pass of a batch leaves behind what
the blocks before each edit computed, and every condition goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from harness.anatomy import stream
from harness.corpus import Windows
from harness.detection import SuperActivation
from harness.editing import Edit, HoldActivation, Scale, edited
from harness.errors import HarnessError
from harness.loading import Subject
from harness.resuming import keeping_prefixes, resumed

Values = NDArray[np.float64]

BATCH = 8
INTACT = "intact"


@dataclass(frozen=True)
class Condition:
    """One way to change a model: scalars scaled, and super activations put back as they were."""

    name: str
    scales: tuple[Scale, ...] = ()
    restored: tuple[SuperActivation, ...] = ()

    @property
    def first_block(self) -> int:
        """The first block whose computation the condition changes."""
        return min([scale.coordinate.layer for scale in self.scales] + [item.onset for item in self.restored])


@dataclass(frozen=True)
class Measurement:
    """What one condition does on each window.

    ``nll``: (windows, tokens - 1), nats. ``kl``: (windows,), mean KL(intact || condition) in nats.
    ``same_top``: (windows,), share of positions whose likeliest token is the intact model's.
    ``tracked``: (windows, tracked ids), mean next-token probability.
    """

    nll: Values
    kl: Values
    same_top: Values
    tracked: Values

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.nll.mean()))


def measure(
    subject: Subject,
    windows: Windows,
    conditions: Sequence[Condition],
    tracked_ids: Sequence[int] = (),
    *,
    batch: int = BATCH,
) -> dict[str, Measurement]:
    """Measure the intact model and every condition on the same windows.

    Returns measurements by condition name, `INTACT` among them. Raises `HarnessError` when two
    conditions share a name, `EditFailed` when an edit does not take effect.
    """
    names = [INTACT, *(condition.name for condition in conditions)]
    if len(set(names)) != len(names):
        raise HarnessError("two conditions share a name; one would overwrite the other")
    parts: dict[str, list[Measurement]] = {name: [] for name in names}
    tracked = torch.tensor(list(tracked_ids), dtype=torch.long, device=subject.device)
    first_blocks = {condition.first_block for condition in conditions}
    for start in range(0, len(windows.ids), batch):
        ids = torch.from_numpy(windows.ids[start : start + batch]).to(subject.device)
        with keeping_prefixes(subject, first_blocks) as prefixes, _watching(subject, conditions) as seen:
            intact = log_probabilities(subject, ids)
        parts[INTACT].append(reduced(intact, intact, ids, tracked))
        for condition in conditions:
            holds = [_hold(item, seen) for item in condition.restored]
            with (
                resumed(subject, prefixes[condition.first_block]),
                edited(subject, [*condition.scales, *holds]),
            ):
                changed = log_probabilities(subject, ids)
            parts[condition.name].append(reduced(intact, changed, ids, tracked))
    return {name: joined(measurements) for name, measurements in parts.items()}


def log_probabilities(subject: Subject, ids: torch.Tensor) -> torch.Tensor:
    """Return next-token log-probabilities of all but the last position: (windows, tokens - 1, V)."""
    with torch.no_grad():
        logits: torch.Tensor = subject.model(input_ids=ids, use_cache=False).logits[:, :-1]
        return logits.float().log_softmax(-1)


def reduced(
    intact: torch.Tensor, changed: torch.Tensor, ids: torch.Tensor, tracked: torch.Tensor
) -> Measurement:
    """Return what is kept of two sets of log-probabilities, each (windows, tokens - 1, V)."""
    chosen = changed.gather(-1, ids[:, 1:, None])[..., 0]
    # One window at a time: the product is as large as the vocabulary is wide.
    kl = [(p.exp() * (p - q)).sum(-1).mean() for p, q in zip(intact, changed, strict=True)]
    same = (intact.argmax(-1) == changed.argmax(-1)).float().mean(-1)
    return Measurement(
        nll=_numpy(-chosen),
        kl=_numpy(torch.stack(kl)),
        same_top=_numpy(same),
        tracked=_numpy(changed[..., tracked].exp().mean(1)),
    )


def _numpy(tensor: torch.Tensor) -> Values:
    return tensor.double().cpu().numpy()


def joined(parts: Sequence[Measurement]) -> Measurement:
    """Return the measurement of all batches as one."""
    names = ("nll", "kl", "same_top", "tracked")
    return Measurement(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


@contextmanager
def _watching(subject: Subject, conditions: Sequence[Condition]) -> Iterator[dict[int, torch.Tensor]]:
    """Record the residual stream after the onset block of every activation to be restored."""
    seen: dict[int, torch.Tensor] = {}
    with ExitStack() as hooks:
        for layer in {item.onset for condition in conditions for item in condition.restored}:
            block = subject.anatomy.blocks[layer]
            hooks.callback(block.register_forward_hook(_recorder(seen, layer)).remove)
        yield seen


def _recorder(seen: dict[int, torch.Tensor], layer: int) -> Callable[[nn.Module, Any, Any], None]:
    def record(_: nn.Module, arguments: Any, output: Any) -> None:
        seen[layer] = stream(output).detach()

    return record


def _hold(item: SuperActivation, seen: dict[int, torch.Tensor]) -> Edit:
    value = seen[item.onset][:, item.token, item.channel]
    return HoldActivation(item.onset, item.token, item.channel, value)
