"""Gains of norms behind the MLP, read from a checkpoint's files by the names that it gives them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from superweight.checkpoints.tensors.checkpoint import Checkpoint, Scalar
from superweight.checkpoints.tensors.decoding import Floats
from superweight.checkpoints.tensors.tensor_info import TensorInfo
from superweight.core.coordinates import GainCoordinate
from superweight.core.errors import BadInput

_BLOCK = re.compile(r"(?:.*\.)?(?:layers|h|blocks|blk)\.(?P<layer>\d+)\.(?P<norm>.+?)(?:\.weight|\.gamma)?")
# What llama.cpp calls the norms that transformers names otherwise.
_GGUF = {"post_ffw_norm": "post_feedforward_layernorm", "post_attention_norm": "post_attention_layernorm"}
# The norms, by their last name, that stand between an MLP and the residual stream.
BEHIND_MLP = ("post_feedforward_layernorm", "post_mlp_layernorm", "layer_scale_2", "ls2", "mlp_layer_scale")


@dataclass(frozen=True)
class GainTensor:
    """The tensor of one norm: its gains as stored, (channels,)."""

    layer: int
    norm: str
    tensor: TensorInfo

    def scalar(self, checkpoint: Checkpoint, channel: int) -> Scalar:
        """Read one gain as it is stored; raises `BadInput` where there is no such channel."""
        if channel >= self.tensor.shape[0]:
            raise BadInput(
                f"coordinate {GainCoordinate(self.layer, self.norm, channel)} lies outside the "
                f"{self.tensor.shape[0]} gains of {self.tensor.name}"
            )
        return checkpoint.scalar(self.tensor.name, channel)

    def values(self, checkpoint: Checkpoint) -> Floats:
        return checkpoint.read(self.tensor.name)


def locate_gain(checkpoint: Checkpoint, place: GainCoordinate) -> GainTensor:
    """Find the norm that holds a gain; raises `BadInput`, naming the block's norms, if there is none."""
    norms = _norms(checkpoint)
    if (place.layer, place.norm) in norms:
        return norms[place.layer, place.norm]
    here = sorted(norm for layer, norm in norms if layer == place.layer)
    has = f"it has {', '.join(here)}" if here else "it has none"
    raise BadInput(
        f"coordinate {place}: {checkpoint.name} has no norm {place.norm!r} in block {place.layer}; {has}"
    )


def norms_behind_mlp(checkpoint: Checkpoint) -> list[GainTensor]:
    """Return the norms that stand between an MLP and the residual stream, block by block."""
    every = _norms(checkpoint)
    return [every[key] for key in sorted(every) if key[1].rpartition(".")[2] in BEHIND_MLP]


def outstanding(gains: Floats, times: float) -> int | None:
    """Return the channel of the largest gain where it is above so many medians, else None."""
    sizes = np.abs(np.asarray(gains, dtype=np.float64))
    channel = int(sizes.argmax())
    return channel if sizes[channel] > times * float(np.median(sizes)) else None


def _norms(checkpoint: Checkpoint) -> dict[tuple[int, str], GainTensor]:
    found = {}
    for name in checkpoint.files:
        match = _BLOCK.fullmatch(name)
        if (
            match is None
            or name.endswith(".bias")
            or ("norm" not in name and "scale" not in name and ".ls" not in name)
        ):
            continue
        info = checkpoint.info(name)
        if len(info.shape) != 1 or info.dtype not in ("F32", "F16", "BF16", "F64"):
            continue
        norm, layer = _GGUF.get(match["norm"], match["norm"]), int(match["layer"])
        found[layer, norm] = GainTensor(layer, norm, info)
    return found
