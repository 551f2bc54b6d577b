"""Tensors straight from a checkpoint's files, local or remote, without torch or transformers."""

from harness.tensors.checkpoint import Checkpoint, Scalar
from harness.tensors.condition import Condition, condition
from harness.tensors.info import TensorInfo
from harness.tensors.locations import Location, locate, locations
from harness.tensors.opening import open_checkpoint

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
]
