"""Check edits at once, or when a measurement is over, so that an accelerator need not be waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Raises `EditFailed` where an edit did not do what was asked. Reading its tensors waits for the device.
Check = Callable[[], None]

_WAITING: ContextVar[list[Check] | None] = ContextVar("waiting", default=None)


@contextmanager
def deferred_proofs() -> Iterator[None]:
    """Let the checks of edits wait until the block is left; what was measured inside counts only then.

    Where the block is left by an exception, nothing was measured and nothing is checked.
    """
    checks: list[Check] = []
    before = _WAITING.set(checks)
    try:
        yield
    finally:
        _WAITING.reset(before)
    for check in checks:
        check()


def prove(check: Check) -> None:
    """Run a check now, or when the block of `deferred_proofs` around it is left."""
    waiting = _WAITING.get()
    if waiting is None:
        check()
    else:
        waiting.append(check)
