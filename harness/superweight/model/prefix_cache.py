"""Begin a forward pass in the middle, on what an earlier one left there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from superweight.model.forward_override import shadowed
from superweight.model.residual_stream import stream, with_stream
from superweight.model.subject import Subject


@dataclass(frozen=True)
class Prefix:
    """What the blocks before ``block`` leave for a batch, so that they need not run again."""

    block: int
    output: Any

    def of_first_sequence(self) -> Prefix:
        """Return the prefix of a batch that holds nothing but the first sequence."""
        if self.output is None or stream(self.output).ndim == 4:
            return self  # no other sequence joins a stream in lanes
        whole = stream(self.output)
        first = with_stream(self.output, whole[:1])
        if isinstance(first, tuple):  # what a half of a block hands on beside its stream
            parts = (first[0], *(_first_of(item, whole) for item in first[1:]))
            first = type(first)(*parts) if hasattr(first, "_fields") else parts
        return Prefix(self.block, first)


def _first_of(item: Any, whole: torch.Tensor) -> Any:
    return item[:1] if isinstance(item, torch.Tensor) and item.shape == whole.shape else item


@contextmanager
def keeping_prefixes(subject: Subject, blocks: Collection[int]) -> Iterator[dict[int, Prefix]]:
    """Keep, from whole forward passes run inside, what the blocks before each of ``blocks`` leave.

    The mapping is filled by the last pass; block 0 needs no prefix and has an empty one.
    """
    prefixes = {block: Prefix(block, None) for block in blocks if block == 0}
    with ExitStack() as hooks:
        for block in set(blocks) - {0}:
            before = subject.architecture.blocks[block - 1]
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
    with ExitStack() as undo:
        for block in subject.architecture.blocks[: prefix.block]:
            undo.enter_context(shadowed(block, _HandOn(prefix.output)))
        yield


def hands_on(block: nn.Module) -> bool:
    """Tell whether a block is skipped by a resumed pass."""
    return isinstance(vars(block).get("forward"), _HandOn)


@dataclass(frozen=True)
class _HandOn:
    """What stands in place of a skipped block's forward."""

    output: Any

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self.output
