"""Copy a safetensors file with some tensors left out and others added; all else keeps its very bytes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from superweight.checkpoints.tensors.decoding import Floats
from superweight.core.errors import BadInput

_CHUNK = 2**24
_PLAIN = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
PLAIN_FLOATS = (*_PLAIN, "BF16")


def encoded(numbers: Floats, dtype: str) -> bytes:
    """Return numbers as a safetensors file stores them in a plain type of floats.

    Raises `BadInput` for a type that is not plain, and for numbers that it cannot hold.
    """
    if dtype not in PLAIN_FLOATS:
        raise BadInput(f"{dtype} is no plain type of floats")
    kind = _bfloat16() if dtype == "BF16" else np.dtype(_PLAIN[dtype])
    with np.errstate(over="ignore"):
        stored = np.asarray(numbers).astype(kind)
    if np.isfinite(numbers).all() and not np.isfinite(stored.astype(np.float32)).all():
        raise BadInput(f"{dtype} cannot hold {float(np.abs(numbers).max()):.6g}, which is to be stored")
    return stored.tobytes()


def _bfloat16() -> np.dtype[Any]:
    import ml_dtypes

    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found


def copy_file(
    source: Path, target: Path, drop: Collection[str], add: Mapping[str, tuple[str, npt.NDArray[np.float32]]]
) -> None:
    """Copy ``source`` without the tensors ``drop`` and with ``add``, each a dtype and its numbers.

    The metadata stays, but for what it says of a tensor that is left out. Raises `OSError`.
    """
    with source.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
        begin = 8 + length
        metadata = header.pop("__metadata__", None)
        kept = sorted((entry["data_offsets"][0], name) for name, entry in header.items() if name not in drop)
        written: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
        size = 0
        for _, name in kept:
            first, last = header[name]["data_offsets"]
            written[name] = header[name] | {"data_offsets": [size, size + last - first]}
            size += last - first
        contents = {name: encoded(numbers, dtype) for name, (dtype, numbers) in add.items()}
        for name, content in contents.items():
            dtype, numbers = add[name]
            offsets = [size, size + len(content)]
            written[name] = {"dtype": dtype, "shape": list(numbers.shape), "data_offsets": offsets}
            size += len(content)
        text = json.dumps(written, separators=(",", ":"), ensure_ascii=False).encode()
        text = text.ljust(-(-len(text) // 8) * 8)
        with target.open("wb") as copy:
            copy.write(len(text).to_bytes(8, "little") + text)
            for _, name in kept:
                first, last = header[name]["data_offsets"]
                copy.writelines(_run(file, begin + first, begin + last))
            copy.writelines(contents.values())


def _run(file: IO[bytes], first: int, last: int) -> Iterator[bytes]:
    file.seek(first)
    while first < last:
        data = file.read(min(_CHUNK, last - first))
        first += len(data)
        yield data
