"""Refuse a checkpoint whose headers contradict each other or its config, before any weight is loaded."""

from __future__ import annotations

from pathlib import Path

from superweight.checkpoints.tensors.decoding import INTEGERS
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.core.errors import BrokenModel


def refuse_unsound_files(path: Path, *, quantised: bool) -> None:
    """Read the headers of every file of a checkpoint, a directory or a GGUF file.

    ``quantised`` says that the config explains integers. Raises `BrokenModel` naming the file and the
    fault: truncated, a header that lies, a shard or a tensor that the index names and nobody holds,
    or integers where numbers should be.
    """
    checkpoint = open_checkpoint(path)
    for name, tensor in checkpoint.tensors().items():
        if tensor.dtype in INTEGERS and name.endswith(".weight") and not quantised:
            raise BrokenModel(
                f"{tensor.file.name}: {name} holds {tensor.dtype}, but config.json has no "
                "quantization_config that says what it means; the header is corrupt"
            )
