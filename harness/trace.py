"""One forward pass, recorded: what every MLP output projection read and wrote, and the residual
stream between the blocks; and a forward pass resumed from the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from harness.anatomy import Anatomy
from harness.loading import Subject

Array = NDArray[np.float32]


class Weights(Protocol):
    """Reads single rows of the output projections' weights."""

    def row(self, layer: int, channel: int) -> Array:
        """Return W[channel, :] of a block's projection: (intermediate,)."""
        ...


@dataclass(frozen=True)
class Trace:
    """What one sequence left behind in one forward pass, in float32.

    ``inputs[l]``: X of block l's output projection, (tokens, intermediate).
    ``outputs[l]``: Y, what it writes to the residual stream, (tokens, hidden).
    ``residual``: (blocks + 1, tokens, hidden); 0 is the embedding, l + 1 the stream after block l.
    """

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    residual: Array
    weights: Weights

    @property
    def blocks(self) -> int:
        return len(self.outputs)

    @cached_property
    def typical(self) -> NDArray[np.float64]:
        """The median magnitude of the residual stream after each block: (blocks + 1,)."""
        return np.median(np.abs(self.residual).astype(np.float64), axis=(1, 2))


@dataclass(frozen=True)
class ModelWeights:
    """`Weights` of a live model: reads what the projections compute with at the time."""

    anatomy: Anatomy

    def row(self, layer: int, channel: int) -> Array:
        row: Array = self.anatomy.projections[layer].row(channel).float().cpu().numpy().copy()
        return row


def trace(subject: Subject, text: str) -> Trace:
    """Return the trace of one text."""
    return trace_batch(subject, [subject.encode(text)])[0]


def trace_batch(subject: Subject, sequences: Sequence[Sequence[int]]) -> list[Trace]:
    """Return the traces of several sequences of ids, run as one right-padded batch.

    Padding is cut off again: each trace holds its own tokens only.
    """
    ids, mask = padded(subject, sequences)
    projections = subject.anatomy.projections
    inputs: dict[int, torch.Tensor] = {}
    outputs: dict[int, torch.Tensor] = {}
    residual: dict[int, torch.Tensor] = {}
    with ExitStack() as hooks, torch.no_grad():
        for layer, projection in enumerate(projections):
            record = _recorder(inputs, outputs, layer)
            hooks.callback(projection.module.register_forward_hook(record).remove)
        for layer, block in enumerate(subject.anatomy.blocks):
            hooks.callback(block.register_forward_hook(_after_block(residual, layer + 1)).remove)
        first = subject.anatomy.blocks[0]
        before = first.register_forward_pre_hook(_before_block(residual), with_kwargs=True)
        hooks.callback(before.remove)
        # The decoder without its head: a trace needs no logits.
        subject.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    weights = ModelWeights(subject.anatomy)
    return [
        Trace(
            inputs=tuple(_rows(inputs[layer], row, len(sequence)) for layer in range(len(projections))),
            outputs=tuple(_rows(outputs[layer], row, len(sequence)) for layer in range(len(projections))),
            residual=np.stack(
                [_rows(residual[index], row, len(sequence)) for index in range(len(projections) + 1)]
            ),
            weights=weights,
        )
        for row, sequence in enumerate(sequences)
    ]


def padded(subject: Subject, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and attention mask, both (sequences, longest), padded on the right."""
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return ids.to(subject.device), mask.to(subject.device)


def stream(output: Any) -> torch.Tensor:
    """Return the residual stream from what a block returns: a tensor, or a tuple led by it."""
    tensor: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return tensor


def _recorder(
    inputs: dict[int, torch.Tensor], outputs: dict[int, torch.Tensor], layer: int
) -> Callable[[nn.Module, Any, Any], None]:
    def record(_: nn.Module, arguments: Any, output: Any) -> None:
        inputs[layer] = arguments[0].detach()
        outputs[layer] = output.detach()

    return record


def _after_block(residual: dict[int, torch.Tensor], index: int) -> Callable[[nn.Module, Any, Any], None]:
    def record(_: nn.Module, arguments: Any, output: Any) -> None:
        residual[index] = stream(output).detach()

    return record


def _before_block(residual: dict[int, torch.Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def record(_: nn.Module, arguments: Any, keywords: Any) -> None:
        residual[0] = (arguments[0] if arguments else keywords["hidden_states"]).detach()

    return record


def _rows(batch: torch.Tensor, row: int, tokens: int) -> Array:
    array: Array = batch[row, :tokens].float().cpu().numpy().copy()
    return array


@dataclass(frozen=True)
class Prefix:
    """What the blocks before ``block`` leave for a batch, so that they need not run again."""

    block: int
    output: Any


@contextmanager
def keeping_prefixes(subject: Subject, blocks: Collection[int]) -> Iterator[dict[int, Prefix]]:
    """Keep, from whole forward passes run inside, what the blocks before each of ``blocks`` leave.

    The mapping is filled by the last pass; block 0 needs no prefix and has an empty one.
    """
    prefixes = {block: Prefix(block, None) for block in blocks if block == 0}
    with ExitStack() as hooks:
        for block in set(blocks) - {0}:
            before = subject.anatomy.blocks[block - 1]
            hooks.callback(before.register_forward_hook(_keeper(prefixes, block)).remove)
        yield prefixes


def _keeper(prefixes: dict[int, Prefix], block: int) -> Callable[[nn.Module, Any, Any], None]:
    def keep(_: nn.Module, arguments: Any, output: Any) -> None:
        prefixes[block] = Prefix(block, output)

    return keep


@contextmanager
def resumed(subject: Subject, prefix: Prefix) -> Iterator[None]:
    """Make forward passes over the prefix's batch begin at its block.

    The skipped blocks hand on what the prefix holds, so the blocks after them compute on the same
    bits as in a whole pass.
    """
    skipped = subject.anatomy.blocks[: prefix.block]
    with ExitStack() as undo:
        for block in skipped:
            # An instance attribute shadows the class's method and is deleted again; where
            # accelerate has put one there already, it is put back.
            shadowed = vars(block).get("forward")
            undo.callback(_unshadow, block, shadowed)
            vars(block)["forward"] = _hand_on(prefix.output)
        yield


def _hand_on(output: Any) -> Callable[..., Any]:
    def forward(*_: Any, **__: Any) -> Any:
        return output

    return forward


def _unshadow(block: nn.Module, shadowed: Any) -> None:
    if shadowed is None:
        del vars(block)["forward"]
    else:
        vars(block)["forward"] = shadowed
