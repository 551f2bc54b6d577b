"""Collect the warnings of a run, so that reports can show them beside the results."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Keeper(logging.Handler):
    """Keep every warning once, in the order in which they came."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.notes: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        note = record.getMessage()
        if note not in self.notes:
            self.notes.append(note)


@contextmanager
def noted() -> Iterator[list[str]]:
    """Collect the harness's warnings in a list for the length of a ``with`` block."""
    logger, keeper = logging.getLogger("superweight"), _Keeper()
    logger.addHandler(keeper)
    try:
        yield keeper.notes
    finally:
        logger.removeHandler(keeper)
