"""Count the forward passes of a model, so that an edit can be proven to have been in each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from superweight.model.subject import Subject


@dataclass
class PassCount:
    """How many forward passes have reached the blocks so far."""

    passes: int = 0


@contextmanager
def counted_passes(subject: Subject) -> Iterator[PassCount]:
    """Count the passes that run through the blocks within a ``with`` block.

    A pass of the head alone, over hidden states that are at hand, reaches no block and does not count.
    """
    count = PassCount()

    def begin(*_: Any) -> None:
        count.passes += 1

    handle = subject.architecture.blocks[0].register_forward_pre_hook(begin)
    try:
        yield count
    finally:
        handle.remove()
