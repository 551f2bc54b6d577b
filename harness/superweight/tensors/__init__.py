"""Tensors straight from a checkpoint's files, local or remote, without torch or transformers."""

from superweight.tensors.checkpoint import Checkpoint, Scalar
from superweight.tensors.condition import Condition, condition
from superweight.tensors.info import TensorInfo
from superweight.tensors.locations import Location, locate, locations
from superweight.tensors.opening import open_checkpoint

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
