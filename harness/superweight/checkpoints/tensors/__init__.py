"""Tensors straight from a checkpoint's files, local or remote, without torch or transformers."""

from superweight.checkpoints.tensors.checkpoint import Checkpoint, Scalar
from superweight.checkpoints.tensors.health import Condition, condition, zero_means_emptied
from superweight.checkpoints.tensors.locations import Location, locate, locations
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.checkpoints.tensors.tensor_info import TensorInfo

__all__ = [
    "Checkpoint",
    "Condition",
    "Location",
    "Scalar",
    "TensorInfo",
    "condition",
    "locate",
    "locations",
    "open_checkpoint",
    "zero_means_emptied",
]
