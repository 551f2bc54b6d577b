"""Replacing what a module does when it is called, for the length of a ``with`` block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

# How often each module is shadowed at the moment, one within another.
_SHADOWED: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def is_shadowed(module: nn.Module) -> bool:
    """Tell whether a call of the module runs something else: its hooks fire, those of its parts do not."""
    return _SHADOWED.get(module, 0) > 0


@contextmanager
def shadowed(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Call ``forward`` in place of the module's own.

    An instance attribute shadows the class's method and is deleted again; where accelerate has put
    one there already, it is put back.
    """
    before = vars(module).get("forward")
    vars(module)["forward"] = forward
    _SHADOWED[module] = _SHADOWED.get(module, 0) + 1
    try:
        yield
    finally:
        _SHADOWED[module] -= 1
        if before is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = before
