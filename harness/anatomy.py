"""Where a decoder keeps its blocks and, in each block, the MLP output projection.

Both are found by structure, not by model name: blocks are the list of like modules whose length
is the model's number of layers; the MLP output projection is the linear map in a block that
writes to the residual stream and is not part of its attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from harness.coordinates import Coordinate
from harness.errors import BadInput, UnknownAnatomy

# What the families call it; consulted only where structure leaves more than one choice.
OUTPUT_PROJECTION_NAMES = ("down_proj", "c_proj", "fc2", "dense_4h_to_h", "w2")
_ATTENTION_NAMES = ("attn", "attention")


@dataclass(frozen=True)
class Projection:
    """One block's MLP output projection: Y = X Wᵀ, W: (hidden, intermediate).

    ``transposed`` says that the module stores W as (intermediate, hidden); rows and columns here
    are always the paper's.
    """

    module: nn.Module
    hidden: int
    intermediate: int
    transposed: bool = False

    @property
    def writable(self) -> bool:
        """Whether the module computes with the very tensor that ``weight`` shows.

        False for quantised modules, and for offloaded ones, whose weight on show is a
        placeholder: a write there succeeds and changes nothing.
        """
        weight = getattr(self.module, "weight", None)
        hook = getattr(self.module, "_hf_hook", None)
        return (
            isinstance(weight, nn.Parameter)
            and weight.is_floating_point()
            and not weight.is_meta
            and tuple(weight.shape) == self._stored_shape
            and not getattr(hook, "offload", False)
        )

    @property
    def _stored_shape(self) -> tuple[int, int]:
        shape = (self.hidden, self.intermediate)
        return shape[::-1] if self.transposed else shape

    def weight(self) -> torch.Tensor:
        """Return W as a view, (hidden, intermediate); only where `writable`."""
        if not self.writable:
            raise BadInput(f"{type(self.module).__name__} does not show the weight it computes with")
        stored: torch.Tensor = self.module.weight.detach()  # type: ignore[operator]  # a Parameter: writable
        return stored.T if self.transposed else stored

    def probe(self, cols: torch.Tensor) -> torch.Tensor:
        """Return W[:, cols] as the module really computes it: (len(cols), hidden).

        One-hot inputs go through the module with all its hooks, so this reads offloaded,
        quantised and edited modules alike.
        """
        parameter = next(self.module.parameters(), None)
        floating = parameter is not None and parameter.is_floating_point()
        device = execution_device(self.module)
        dtype = parameter.dtype if parameter is not None and floating else torch.float32
        one_hot = torch.zeros(len(cols) + 1, self.intermediate, device=device, dtype=dtype)
        one_hot[torch.arange(len(cols)), cols.to(device)] = 1
        with torch.no_grad():
            answer: torch.Tensor = self.module(one_hot)
        # The last input is all zero: what it yields is the bias.
        return answer[:-1] - answer[-1:] if bool(answer[-1].any()) else answer[:-1]

    def row(self, channel: int) -> torch.Tensor:
        """Return W[channel, :]: (intermediate,)."""
        if self.writable:
            return self.weight()[channel]
        chunks = torch.arange(self.intermediate).split(512)
        return torch.cat([self.probe(cols)[:, channel] for cols in chunks])


def execution_device(module: nn.Module) -> torch.device:
    """Return where a module computes: of an offloaded one, where accelerate sends its inputs."""
    hook = getattr(module, "_hf_hook", None)
    planned = getattr(hook, "execution_device", None)
    if planned is not None:
        return torch.device(planned)
    tensor: torch.Tensor | None = next(module.parameters(), next(module.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device


@dataclass(frozen=True)
class Anatomy:
    """A decoder's blocks in order, and the MLP output projection of each."""

    blocks: tuple[nn.Module, ...]
    projections: tuple[Projection, ...]

    @property
    def hidden(self) -> int:
        return self.projections[0].hidden

    def projection(self, coordinate: Coordinate) -> Projection:
        """Return the projection that holds ``coordinate``; raises `BadInput` if none does."""
        if coordinate.layer >= len(self.projections):
            raise BadInput(
                f"coordinate {coordinate} names block {coordinate.layer}, "
                f"but the model has blocks 0 to {len(self.projections) - 1}"
            )
        projection = self.projections[coordinate.layer]
        if coordinate.row >= projection.hidden or coordinate.col >= projection.intermediate:
            raise BadInput(
                f"coordinate {coordinate} lies outside the ({projection.hidden}, "
                f"{projection.intermediate}) output projection of block {coordinate.layer}"
            )
        return projection

    def value(self, coordinate: Coordinate) -> float:
        """Return the scalar the model computes with at ``coordinate``."""
        projection = self.projection(coordinate)
        if projection.writable:
            return float(projection.weight()[coordinate.row, coordinate.col])
        return float(projection.probe(torch.tensor([coordinate.col]))[0, coordinate.row])


def describe(model: PreTrainedModel) -> Anatomy:
    """Find the blocks and output projections of ``model``.

    Raises `UnknownAnatomy`, naming the class and what was looked for, when structure does not
    tell; a model is measured wholly or not at all.
    """
    config = model.config.get_text_config()
    count = getattr(config, "num_hidden_layers", None)
    hidden = getattr(config, "hidden_size", None)
    if not isinstance(count, int) or not isinstance(hidden, int):
        raise UnknownAnatomy(
            f"{type(model).__name__} does not say its num_hidden_layers and hidden_size, "
            "so it is no decoder this harness can read"
        )
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            projections = [_output_projection(block, hidden) for block in module]
            found = [projection for projection in projections if projection is not None]
            if len(found) == count:
                return Anatomy(tuple(module), tuple(found))
    raise UnknownAnatomy(
        f"{type(model).__name__}: found no list of {count} blocks in each of which one linear map "
        f"outside the attention writes to the {hidden} channels of the residual stream"
    )


def _output_projection(block: nn.Module, hidden: int) -> Projection | None:
    candidates = {}
    for path, module in block.named_modules():
        if any(name in path.lower() for name in _ATTENTION_NAMES):
            continue
        shape = _linear_shape(module)
        if shape is not None and shape[0] == hidden:
            transposed = isinstance(module, Conv1D)
            candidates[path] = Projection(module, *shape, transposed=transposed)
    if len(candidates) > 1:
        named = {
            path: candidate
            for path, candidate in candidates.items()
            if path.rpartition(".")[2] in OUTPUT_PROJECTION_NAMES
        }
        candidates = named
    return next(iter(candidates.values())) if len(candidates) == 1 else None


def _linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return (outputs, inputs) of a linear map, quantised ones included, or None."""
    if isinstance(module, Conv1D):
        return module.nf, module.nx
    outputs = getattr(module, "out_features", None)
    inputs = getattr(module, "in_features", None)
    if isinstance(outputs, int) and isinstance(inputs, int):
        return outputs, inputs
    return None
