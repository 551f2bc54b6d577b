"""Replacing what a module does when it is called, for the length of a ``with`` block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def shadowed(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Call ``forward`` in place of the module's own.

    An instance attribute shadows the class's method and is deleted again; where accelerate has put
    one there already, it is put back.
    """
    before = vars(module).get("forward")
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = before
