"""Safetensors files written a tensor at a time, so that none but the one at hand is in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy.typing as npt

from superweight.checkpoints.recognition import INDEX, SINGLE

LARGEST_PART = 4 * 2**30
# What an entry of the header takes beside the tensor's name: type, shape and two offsets of 20 digits.
_ENTRY = 160
_DTYPES = {"float32": "F32", "float16": "F16", "uint16": "BF16"}


@dataclass
class _Part:
    """A file under way: its header's room is reserved, and filled when all tensors are known."""

    file: IO[bytes]
    room: int
    header: dict[str, Any] = field(default_factory=lambda: {"__metadata__": {"format": "pt"}})
    size: int = 0

    def add(self, name: str, numbers: npt.NDArray[Any]) -> None:
        begin, self.size = self.size, self.size + numbers.nbytes
        self.header[name] = {
            "dtype": _DTYPES[numbers.dtype.name],
            "shape": list(numbers.shape),
            "data_offsets": [begin, self.size],
        }
        self.file.write(numbers.data.cast("B") if numbers.size else b"")

    def close(self) -> None:
        text = json.dumps(self.header, separators=(",", ":")).encode()
        self.file.seek(0)
        self.file.write(self.room.to_bytes(8, "little") + text.ljust(self.room))
        self.file.close()


class SafetensorsParts:
    """A folder's weights, written in parts of at most ``largest`` bytes, and their index.

    ``names`` are all that may come. Arrays of uint16 are bfloat16 by its bits. Used as a context:
    at its end the parts get the names that transformers looks for.
    """

    def __init__(self, folder: Path, names: Iterable[str], largest: int = LARGEST_PART) -> None:
        self._folder, self._largest = folder, largest
        self._room = -(-(64 + sum(len(json.dumps(name)) + _ENTRY for name in names)) // 8) * 8
        self._parts: list[_Part] = []

    def add(self, name: str, numbers: npt.NDArray[Any]) -> None:
        """Write one tensor; it is in memory no longer than this takes."""
        if not self._parts or (
            self._parts[-1].size and self._parts[-1].size + numbers.nbytes > self._largest
        ):
            self._close_last()
            path = self._folder / f"part-{len(self._parts)}"
            file = path.open("wb")
            file.seek(8 + self._room)
            self._parts.append(_Part(file, self._room))
        self._parts[-1].add(name, numbers)

    def __enter__(self) -> SafetensorsParts:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._close_last()
        if kind is not None:
            return
        count = len(self._parts)
        names = [f"model-{place + 1:05}-of-{count:05}.safetensors" for place in range(count)]
        names = [SINGLE] if count == 1 else names
        for place, name in enumerate(names):
            (self._folder / f"part-{place}").replace(self._folder / name)
        if count > 1:
            held = zip(names, self._parts, strict=True)
            weight_map = {
                tensor: name for name, part in held for tensor in part.header if tensor != "__metadata__"
            }
            document = {
                "metadata": {"total_size": sum(part.size for part in self._parts)},
                "weight_map": weight_map,
            }
            (self._folder / INDEX).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def _close_last(self) -> None:
        if self._parts and not self._parts[-1].file.closed:
            self._parts[-1].close()
