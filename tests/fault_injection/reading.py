"""Everything that the readers of tensor files can be asked of a file."""

from __future__ import annotations

from pathlib import Path

from superweight.checkpoints.tensors.open import open_checkpoint


def read_all(path: Path) -> None:
    """Open a file and read every tensor of it, as `superweight read` would."""
    checkpoint = open_checkpoint(path)
    for name, tensor in checkpoint.tensors().items():
        if all(tensor.shape) and len(tensor.shape) == 2:
            checkpoint.scalar(name, 0, 0)
            checkpoint.row(name, 0)
