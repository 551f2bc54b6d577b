"""Read a checkpoint's tensors by name, and of their numbers only the bytes that are needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from superweight.checkpoints.tensors.decoding import (
    FLOAT8,
    INTEGERS,
    Floats,
    block_step,
    decode,
    float8_step,
    integers,
)
from superweight.checkpoints.tensors.files import Folder
from superweight.checkpoints.tensors.scales import Scale, make_scale, scale_name
from superweight.checkpoints.tensors.tensor_info import Header, TensorInfo
from superweight.core.errors import BadInput, BrokenModel

if TYPE_CHECKING:
    from superweight.checkpoints.forms.form import Packed

Merge = Callable[[str, tuple[int, ...], "Packed | None"], "Packed | None"]

# Of a matrix that is looked through in pieces: 1 MiB of float32, which a processor's cache holds.
_PIECE = 2**18
# Types that several packed numbers share.
_CODES = ("U8", "U32", "I32")


@dataclass(frozen=True)
class Scalar:
    """One number of a tensor.

    ``value`` is what the model computes with. ``step`` is how far apart the numbers are that the
    scalar's own block can store: the block's scale for integers and evenly spaced GGUF types, the
    gap around the value for 8-bit floats, None for types that are not quantised or not even.
    """

    value: float
    step: float | None


@dataclass(frozen=True)
class Checkpoint:
    """The files of a model, opened by `open_checkpoint`.

    ``files`` maps every tensor's name to the file that holds it; a file's header is read when the
    first of its tensors is needed. ``merged`` is what an adapter makes of a tensor: from its name, its
    shape and how it is packed, if it is.
    """

    name: str
    folder: Folder
    files: Mapping[str, str]
    read_header: Callable[[str], Header]
    is_gguf: bool = False
    merged: Merge | None = None
    _headers: dict[str, Header] = field(default_factory=dict, repr=False)
    _scales: dict[str, Scale | None] = field(default_factory=dict, repr=False)

    @property
    def received(self) -> int | None:
        """How many bytes came over the network so far; None where there is no network."""
        return self.folder.received

    @cached_property
    def config(self) -> Mapping[str, object]:
        """The model's config.json, empty where there is none; raises `BadInput` if it is no JSON object."""
        text = None if self.is_gguf else self.folder.document("config.json")
        return {} if text is None else json_object(text, f"{self.folder.name}/config.json")

    def info(self, name: str) -> TensorInfo:
        """Return what the header says of a tensor; raises `BadInput` when there is none of that name."""
        if name not in self.files:
            raise BadInput(f"{self.name} has no tensor {name!r}")
        file = self.files[name]
        header = self._header(file)
        if name not in header:
            raise BrokenModel(f"{self.name}: the index says that {file} holds {name!r}, but it does not")
        return header[name]

    def tensors(self) -> dict[str, TensorInfo]:
        """Return every tensor by name, from the headers of all files.

        Raises `BadInput` when a file is missing or damaged, or lacks a tensor that the index names.
        """
        self.folder.prepare(sorted(set(self.files.values()) - self._headers.keys()))
        return {name: self.info(name) for name in sorted(self.files)}

    def scalar(self, name: str, *index: int) -> Scalar:
        """Read one number of a tensor, by an index into each of its dimensions."""
        info = self._indexed(name, index, whole=True)
        position = int(np.ravel_multi_index(index, info.shape)) if index else 0
        block, within = divmod(position, info.block_elements)
        data = self._blocks(info, block, block + 1)
        stored = _decoded(info, data)[within]
        scale = self._scale(info)
        if scale is not None:
            gap = float8_step(float(stored), info.dtype) if info.dtype in FLOAT8 else 1.0
            return Scalar(float(scale.apply(stored, index)), abs(scale.at(index)) * gap)
        if info.dtype in FLOAT8:
            return Scalar(float(stored), float8_step(float(stored), info.dtype))
        return Scalar(float(stored), block_step(data, info.dtype, within))

    def read(self, name: str, *index: int) -> Floats:
        """Read a tensor, or the part of it at a leading index, as float32."""
        info = self._indexed(name, index, whole=False)
        shape = info.shape[len(index) :]
        count = int(np.prod(shape, dtype=np.int64))
        offset = 0
        for place, length in zip(index, info.shape, strict=False):
            offset = offset * length + place
        part = self._stored(info, offset * count, count).reshape(shape)
        scale = self._scale(info)
        return part if scale is None else scale.apply(part, index)

    def row(self, name: str, *index: int) -> Floats:
        """Read one row, by an index into each dimension but the last."""
        rank = len(self.info(name).shape)
        if len(index) != rank - 1:
            raise BadInput(f"{name} has {rank} dimensions, so a row of it takes {rank - 1} indices")
        return self.read(name, *index)

    def stored(self, name: str, *index: int, upto: int | None = None) -> npt.NDArray[Any]:
        """Read a tensor as it is stored, unscaled and integers as such, or its part at a leading index.

        With ``upto`` the last number of the index is the first of a range that ends before it.
        """
        info = self.info(name)
        whole = index if upto is None else index[:-1]
        begin, end = (0, 1) if upto is None else (index[-1], upto)
        shape = info.shape[len(index) :] if upto is None else (end - begin, *info.shape[len(index) :])
        lengths = info.shape[: len(index)]
        if len(index) > len(info.shape) or not 0 <= begin <= end <= (lengths[-1] if upto is not None else 1):
            raise BadInput(f"index {list(index)} lies outside {name} of shape {list(info.shape)}")
        offset = 0
        for place, length in zip(whole, info.shape, strict=False):
            if not 0 <= place < length:
                raise BadInput(f"index {list(index)} lies outside {name} of shape {list(info.shape)}")
            offset = offset * length + place
        each = int(np.prod(info.shape[len(index) :], dtype=np.int64))
        first = offset * each if upto is None else (offset * lengths[-1] + begin) * each
        count = int(np.prod(shape, dtype=np.int64))
        if info.dtype not in INTEGERS:
            return self._stored(info, first, count).reshape(shape)
        return integers(self._blocks(info, first, first + count), info.dtype).reshape(shape)

    def scale(self, name: str) -> Scale | None:
        """Return what lies beside a tensor and multiplies its stored numbers, None where nothing does."""
        return self._scale(self.info(name))

    def scaled(self, name: str) -> bool:
        """Tell whether a tensor's numbers are those stored times a scale that lies beside them."""
        return self._scale(self.info(name)) is not None

    def pieces(self, name: str) -> Iterator[Floats]:
        """Read a tensor in flat pieces, so that one larger than memory can be looked through."""
        info = self.info(name)
        # Packed codes are finite, and zero or not, whatever they are scaled by.
        if info.dtype not in _CODES and self._scale(info) is not None:
            for place in range(info.shape[0]):
                yield self.read(name, place).reshape(-1)
            return
        for first in range(0, info.elements, _PIECE):
            yield self._stored(info, first, min(_PIECE, info.elements - first))

    def _header(self, file: str) -> Header:
        if file not in self._headers:
            self._headers[file] = self.read_header(file)
        return self._headers[file]

    def _indexed(self, name: str, index: tuple[int, ...], *, whole: bool) -> TensorInfo:
        info = self.info(name)
        fits = len(index) == len(info.shape) if whole else len(index) <= len(info.shape)
        inside = all(0 <= place < length for place, length in zip(index, info.shape, strict=False))
        if not (fits and inside):
            raise BadInput(f"index {list(index)} lies outside {name} of shape {list(info.shape)}")
        return info

    def _stored(self, info: TensorInfo, first: int, count: int) -> Floats:
        """Return a run of numbers before they are scaled."""
        begin, end = first // info.block_elements, -(-(first + count) // info.block_elements)
        stored = _decoded(info, self._blocks(info, begin, end))
        skipped = first - begin * info.block_elements
        return stored[skipped : skipped + count]

    def _blocks(self, info: TensorInfo, begin: int, end: int) -> bytes:
        return info.file.read(info.start + begin * info.block_bytes, info.start + end * info.block_bytes)

    def _scale(self, info: TensorInfo) -> Scale | None:
        if self.is_gguf or info.dtype not in (*INTEGERS, *FLOAT8):
            return None
        if info.name not in self._scales:
            self._scales[info.name] = self._read_scale(info)
        return self._scales[info.name]

    def _read_scale(self, info: TensorInfo) -> Scale | None:
        name = scale_name(info, self.files)
        if name is None:
            return None
        zero_point = info.name + "_zero_point"
        zeros = self.read(zero_point) if zero_point in self.files else None
        # Of a remote checkpoint the config is one more request, which only blocks are worth.
        scale = self.info(name)
        in_blocks = len(scale.shape) == len(info.shape) and any(
            count not in (1, length) for count, length in zip(scale.shape, info.shape, strict=True)
        )
        config = self.config if in_blocks else {}
        return make_scale(info, scale, self.read(name), zeros, config)


def _decoded(info: TensorInfo, data: bytes) -> Floats:
    try:
        return decode(data, info.dtype)
    except BadInput as error:
        raise BadInput(f"{info.file.name}: tensor {info.name!r}: {error}") from None


def json_object(text: bytes, place: str) -> dict[str, object]:
    """Return a JSON object; raises `BadInput` naming ``place`` when it is none."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenModel(f"{place} is no valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise BrokenModel(f"{place} holds no JSON object")
    return document
