"""Dequantise a GGUF file's tensors one at a time, named as transformers wants them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.decoding import Floats
from superweight.checkpoints.tensors.open import open_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BLOCK = re.compile(r"blk\.(\d+)\.")


def can_stream(architecture: str) -> bool:
    """Tell whether transformers' own mapping of names can be applied a tensor at a time.

    Of some architectures it converts in another way, and where this version of it has no such mapping
    the file is converted whole.
    """
    from transformers import modeling_gguf_pytorch_utils as library

    if not all(hasattr(library, name) for name in ("TENSOR_PROCESSORS", "get_gguf_hf_weights_map")):
        return False
    try:
        from transformers.integrations.gguf.utils import is_gguf_arch_supported
    except ImportError:
        return True
    return not is_gguf_arch_supported(architecture)


def converted_tensors(
    gguf: Path, architecture: str, skeleton: PreTrainedModel
) -> Iterator[tuple[str, Floats, str]]:
    """Return the names that ``skeleton`` has, the numbers in float32, and the type they were stored in.

    Names, permutations and the stacking of experts are transformers' own. Of a mixture of experts, the
    experts of one block are in memory together.
    """
    from transformers import modeling_gguf_pytorch_utils

    library: Any = modeling_gguf_pytorch_utils
    checkpoint = open_checkpoint(gguf)
    config = skeleton.config.to_dict()
    kind = library.TENSOR_PROCESSORS.get(architecture, library.TensorProcessor)
    processor = kind(config=config)
    names = library.get_gguf_hf_weights_map(skeleton, processor)
    tied = tied_names(skeleton)
    stacked: dict[str, Any] = {"config": config, "tensors": {}}
    ordered = sorted(checkpoint.files, key=block_number)
    for place, name in enumerate(ordered):
        stored = checkpoint.info(name).dtype
        result = processor.process(
            weights=numbers(checkpoint, name),
            name=name,
            tensor_key_mapping=names,
            parsed_parameters=stacked,
        )
        if result.name in names and names[result.name] not in tied:
            yield names[result.name], np.asarray(result.weights, dtype=np.float32), stored
        del result
        last = place + 1 == len(ordered) or block_number(ordered[place + 1]) != block_number(name)
        # What is stacked from several tensors is whole when the block is.
        for whole in list(stacked["tensors"]) if last else ():
            yield whole, stacked["tensors"].pop(whole).numpy(), stored


def numbers(checkpoint: Checkpoint, name: str) -> Floats:
    """Read a tensor piece by piece: unpacking takes several times the room of its result."""
    info = checkpoint.info(name)
    unpacked, first = np.empty(info.elements, np.float32), 0
    for piece in checkpoint.pieces(name):
        unpacked[first : first + piece.size] = piece
        first += piece.size
    return unpacked.reshape(info.shape)


def block_number(name: str) -> int:
    """Return the number of the block that a tensor belongs to, -1 for one beside the blocks."""
    match = _BLOCK.match(name)
    return -1 if match is None else int(match[1])


def tied_names(skeleton: PreTrainedModel) -> set[str]:
    """Return the names of tensors that are another one."""
    keys = getattr(skeleton, "_tied_weights_keys", None) or {}
    return set(keys) if skeleton.config.get_text_config().tie_word_embeddings else set()
