"""Copy a GGUF file with some tensors stored in another type; all else keeps its very bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from superweight.checkpoints.tensors.decoding import Floats
from superweight.core.errors import BadInput

# What llama.cpp reads beside any other type in one file.
TYPES = ("F16", "Q8_0")
_LARGEST_F16 = float(np.finfo(np.float16).max)


def stored_as(numbers: Floats, kind: str) -> str:
    """Return the type that holds the numbers: ``kind``, or F32 where they are too large for F16."""
    too_large = kind == "F16" and float(np.abs(numbers).max(initial=0.0)) > _LARGEST_F16
    return "F32" if too_large else kind


def copy_gguf(source: Path, target: Path, changed: Mapping[str, tuple[str, Floats]]) -> None:
    """Copy a GGUF file; each tensor of ``changed`` is stored as its type says, from its numbers.

    Numbers are in the shape of the tensor, outputs first. Raises `BadInput` for a length that the
    type's blocks do not divide, and `OSError`.
    """
    import gguf

    reader = gguf.GGUFReader(source)
    architecture = reader.get_field("general.architecture")
    writer = gguf.GGUFWriter(target, "" if architecture is None else architecture.contents())
    if architecture is None:  # the second part of several says nothing of it
        writer.kv_data[0].pop("general.architecture", None)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        held = field.types[0]
        items = field.types[-1] if held == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), held, sub_type=items)
    writer.data_alignment = reader.alignment
    contents: dict[str, npt.NDArray[Any]] = {}
    for tensor in reader.tensors:
        kind = tensor.tensor_type
        data: npt.NDArray[Any] = tensor.data
        if tensor.name in changed:
            name, numbers = changed[tensor.name]
            kind = gguf.GGMLQuantizationType[name]
            data = _encoded(tensor.name, numbers, kind)
        contents[tensor.name] = data
        writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for data in contents.values():
            writer.write_tensor_data(np.ascontiguousarray(data))
    finally:
        writer.close()


def _encoded(name: str, numbers: Floats, kind: Any) -> npt.NDArray[Any]:
    from gguf.quants import QuantError, quantize

    try:
        data: npt.NDArray[Any] = quantize(np.ascontiguousarray(numbers), kind)
    except (QuantError, NotImplementedError, ValueError) as error:
        raise BadInput(
            f"{name} of shape {list(numbers.shape)} cannot be stored as {kind.name}: {error}"
        ) from error
    return data
