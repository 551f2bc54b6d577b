"""Bring the rows of an embedding as they are looked up, and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from superweight.core.errors import UnknownArchitecture
from superweight.model.places import Place
from superweight.model.sparse_memory import sparse_tensor

# What is asked of a table without reading a number of it.
_OF_NO_NUMBERS = ("__get__", "size", "dim", "numel", "is_floating_point", "is_complex", "data_ptr")


class _Guarded(nn.Parameter):
    """A table of which not all rows are there: whoever reads it outside of a look-up is refused."""

    called: str

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        if name not in _OF_NO_NUMBERS:
            called = next(item.called for item in args if isinstance(item, cls))
            raise UnknownArchitecture(
                f"{called} is read by {name}, not row by row, so the model is not run block by block; "
                "scan it without --stream"
            )
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class TableRows(TorchFunctionMode):
    """Brings the rows of one embedding as they are looked up, and lets nothing else read it."""

    def __init__(
        self,
        place: Place,
        one: Callable[[int], torch.Tensor],
        readers: ThreadPoolExecutor,
        accept: Callable[[str, torch.Tensor, torch.Tensor], None],
    ) -> None:
        super().__init__()
        self._place = place
        self._one = one
        self._readers = readers
        self._accept = accept
        self._meta = place.tensor
        self._table = sparse_tensor(tuple(self._meta.shape), self._meta.dtype)
        self._present: set[int] = set()
        self._guard()

    @contextmanager
    def there(self) -> Iterator[None]:
        """Have the table in its place for one call of the embedding."""
        self._place.put(self._table)
        try:
            with self:
                yield
        finally:
            self._guard()

    def _guard(self) -> None:
        """Leave in the table's place what says where it lies, and raises when it is read."""
        guarded = _Guarded(self._table, requires_grad=False)
        guarded.called = self._place.name
        self._place.module._parameters[self._place.own] = guarded

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tables = [item for item in args if isinstance(item, torch.Tensor) and self._is_table(item)]
        if func is nn.functional.embedding and len(args) > 1 and self._is_table(args[1]):
            self._bring(args[0])
        elif tables and getattr(func, "__name__", "") not in _OF_NO_NUMBERS:
            self._bring(torch.arange(len(self._table)))  # it may look at any of them
        return func(*args, **(kwargs or {}))

    def _is_table(self, item: Any) -> bool:
        return isinstance(item, torch.Tensor) and item.data_ptr() == self._table.data_ptr()

    def _bring(self, ids: torch.Tensor) -> None:
        due = sorted({int(token) for token in ids.unique()} - self._present)
        with torch.overrides.BaseTorchFunctionMode():
            for token, row in zip(due, self._readers.map(self._one, due), strict=True):
                self._accept(self._place.name, row, self._meta[token])
                self._table[token] = row
        self._present |= set(due)
