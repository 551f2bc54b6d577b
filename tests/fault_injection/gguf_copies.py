"""Copies of a GGUF file with something changed, written by the format's own library."""

from __future__ import annotations

import gguf
import numpy as np

from tests.helpers.checkpoint_files import finish_gguf


def rewrite_gguf(source, target, *, drop=(), change=None, metadata=None, keep=None):
    """Copy a GGUF file without the tensors ``drop``, or with none but ``keep``.

    ``change`` maps a tensor's name to a function of its numbers, ``metadata`` a key to its new value.
    """
    change, metadata = change or {}, metadata or {}
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        items = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, metadata.get(field.name, field.contents()), kind, sub_type=items)
    for tensor in reader.tensors:
        if tensor.name in drop or (keep is not None and tensor.name not in keep):
            continue
        numbers = np.ascontiguousarray(change.get(tensor.name, lambda data: data)(tensor.data))
        writer.add_tensor(tensor.name, numbers, raw_dtype=tensor.tensor_type)
    finish_gguf(writer)


def split_gguf(source, folder, count):
    """Write a GGUF file in parts as llama-gguf-split does: the metadata is in the first; return the paths."""
    reader = gguf.GGUFReader(source)
    paths = []
    for place in range(count):
        path = folder / f"{source.stem}-{place + 1:05}-of-{count:05}.gguf"
        writer = gguf.GGUFWriter(path, reader.get_field("general.architecture").contents())
        for field in reader.fields.values() if place == 0 else ():
            if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                kind = field.types[0]
                items = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), kind, sub_type=items)
        writer.add_uint16("split.no", place)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[place::count]:
            writer.add_tensor(tensor.name, np.ascontiguousarray(tensor.data), raw_dtype=tensor.tensor_type)
        finish_gguf(writer)
        paths.append(path)
    return paths
