"""The tiny model with a super weight as a GGUF file, and the hash of everything in such a file."""

from __future__ import annotations

import hashlib

import gguf
import numpy as np
from gguf.quants import quantize
from safetensors.torch import load_file

from superweight.core.coordinates import Coordinate
from tests.helpers.checkpoint_files import finish_gguf

PLACE = Coordinate(1, 41, 23)
DOWN = "model.layers.1.mlp.down_proj.weight"
_NAMES = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 4)


def as_gguf(base, path, kind, change):
    """Write the model at ``base`` after a change, its matrices in a type of GGUF; return the path."""
    tensors = {name: tensor.float() for name, tensor in load_file(base / "model.safetensors").items()}
    change(tensors, [PLACE])
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(4)
    writer.add_name("planted")
    writer.add_token_list(["a", "b"])
    for name, tensor in tensors.items():
        own = _NAMES.get_name(name, try_suffixes=(".weight",))
        numbers = np.ascontiguousarray(tensor.numpy())
        whole = kind if name.endswith("_proj.weight") else gguf.GGMLQuantizationType.F32
        writer.add_tensor(own, quantize(numbers, whole), raw_dtype=whole)
    finish_gguf(writer)
    return path


def gguf_digests(path):
    """Return what every value and tensor of a GGUF file is, by name, as the format's library reads it."""
    reader = gguf.GGUFReader(path)
    values = {
        name: repr((field.types, field.contents()))
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    tensors = {
        tensor.name: f"{tensor.tensor_type.name} {hashlib.sha256(tensor.data.tobytes()).hexdigest()}"
        for tensor in reader.tensors
    }
    return values | tensors
