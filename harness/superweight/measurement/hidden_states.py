"""Compute the final hidden states of conditions: all in one pass where blocks take more rows, or in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils.generic import ModelOutput

from superweight.detection.detect import SuperActivation
from superweight.measurement.batched_ablation import can_batch, run_batched
from superweight.measurement.conditions import INTACT, Condition
from superweight.model.batch_rows import NoRowsJoin, rows_do_not_fit
from superweight.model.edits import Edit, PatchActivation, edited
from superweight.model.forward_override import shadowed
from superweight.model.prefix_cache import keeping_prefixes, resumed
from superweight.model.residual_stream import plain_stream
from superweight.model.subject import Subject


@dataclass(frozen=True)
class Decoded:
    """What the decoder returned: the final hidden states of each condition, (windows, tokens, hidden)."""

    output: ModelOutput
    hidden: Mapping[str, torch.Tensor]

    def predicted(self, subject: Subject, name: str, windows: slice) -> torch.Tensor:
        """Return the log-probabilities of some windows under a condition: (windows, tokens - 1, V).

        The last token of a window predicts nothing that is scored: the head is not applied to it.
        """
        return self.logits(subject, name, windows, scored=True).float().log_softmax(-1)

    def logits(self, subject: Subject, name: str, windows: slice, *, scored: bool = False) -> torch.Tensor:
        """Return the logits of some windows under a condition, of all but the last token where ``scored``.

        (windows, tokens, V), or (windows, tokens - 1, V).
        """
        hidden = self.hidden[name][windows]
        # In one piece: of a view with gaps the head takes a slower way.
        hidden = hidden[:, :-1].contiguous() if scored else hidden
        handed = type(self.output)(**{**self.output, "last_hidden_state": hidden})
        # The model's own head, with whatever its class does to logits.
        with torch.no_grad(), shadowed(subject.model.base_model, lambda *_, **__: handed):
            ids = torch.zeros(hidden.shape[:2], dtype=torch.long, device=subject.device)
            logits: torch.Tensor = subject.model(input_ids=ids, use_cache=False).logits
        return logits


def decode(subject: Subject, ids: torch.Tensor, conditions: Sequence[Condition]) -> Decoded:
    """Decode all conditions in one pass where the blocks compute on more rows, else one by one."""
    if can_batch(subject, conditions):
        try:
            return decode_batched(subject, ids, conditions)
        except NoRowsJoin:
            pass
        except RuntimeError as error:
            if not conditions or not rows_do_not_fit(error):
                raise
    return decode_one_by_one(subject, ids, conditions)


def decode_batched(subject: Subject, ids: torch.Tensor, conditions: Sequence[Condition]) -> Decoded:
    """Return what the intact model and all conditions make of (windows, tokens) ids, in one pass."""
    with torch.no_grad(), run_batched(subject, conditions, len(ids)) as rows:
        output = subject.model.base_model(input_ids=ids, use_cache=False)
    return Decoded(output, {name: output.last_hidden_state[own] for name, own in rows.items()})


def decode_one_by_one(subject: Subject, ids: torch.Tensor, conditions: Sequence[Condition]) -> Decoded:
    """Return the same, each condition in a pass of its own that begins at its first block."""
    first_blocks = {condition.first_block for condition in conditions}
    with torch.no_grad():
        with keeping_prefixes(subject, first_blocks) as prefixes, _watching(subject, conditions) as seen:
            output = subject.model.base_model(input_ids=ids, use_cache=False)
        hidden = {INTACT: output.last_hidden_state}
        for condition in conditions:
            patches = [_patch(item, seen) for item in condition.restored]
            with (
                resumed(subject, prefixes[condition.first_block]),
                edited(subject, [*condition.scales, *condition.gains, *patches]),
            ):
                changed = subject.model.base_model(input_ids=ids, use_cache=False)
            hidden[condition.name] = changed.last_hidden_state
    return Decoded(output, hidden)


@contextmanager
def _watching(subject: Subject, conditions: Sequence[Condition]) -> Iterator[dict[int, torch.Tensor]]:
    """Record the residual stream after the onset block of every activation to be restored."""
    seen: dict[int, torch.Tensor] = {}
    with ExitStack() as hooks:
        for layer in {item.onset for condition in conditions for item in condition.restored}:
            block = subject.architecture.blocks[layer]
            hooks.callback(block.register_forward_hook(_recorder(subject, seen, layer)).remove)
        yield seen


def _recorder(
    subject: Subject, seen: dict[int, torch.Tensor], layer: int
) -> Callable[[nn.Module, Any, Any], None]:
    def record(_: nn.Module, arguments: Any, output: Any) -> None:
        seen[layer] = plain_stream(output, subject.architecture.hidden).detach()

    return record


def _patch(item: SuperActivation, seen: dict[int, torch.Tensor]) -> Edit:
    value = seen[item.onset][:, item.token, item.channel]
    return PatchActivation(item.onset, item.token, item.channel, value)
