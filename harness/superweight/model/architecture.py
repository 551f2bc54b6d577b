"""Find a decoder's blocks and, in each block, the projections by which its MLP writes.

Both are found by structure, not by model name: the blocks are the list of modules that stands
nearest to the token embedding and is as long as the model is deep; an MLP output projection is the
linear map of a feed-forward network that ends at the residual stream, or the 3-D parameter that
holds one for every expert. What structure leaves open is told by `NAMING_RULES`, and what neither
tells is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput, UnknownArchitecture
from superweight.model.experts import Experts
from superweight.model.projections import LinearProjection, Projection


class NamingRules(NamedTuple):
    """What the code of some model families calls a thing that structure alone does not tell."""

    # The output projection, where several linear maps of a block end at the residual stream.
    output_projections: tuple[str, ...] = ("down_proj", "c_proj", "fc2", "fc_out", "dense_4h_to_h", "w2")
    # Parts of a block that mix tokens, by path or class, whatever linear maps they hold.
    mixers: tuple[str, ...] = ("attn", "attention", "mamba", "shortconv", "ssm", "recurrent", "deltanet")
    # A number of the block by which the MLP's write is multiplied before it is added (Granite).
    write_scale: str = "residual_multiplier"


NAMING_RULES = NamingRules()


@dataclass(frozen=True)
class Block:
    """One decoder block and what its MLP writes with; nothing where it only mixes tokens.

    ``dense`` is its one projection, or that of its shared experts; ``experts`` are the routed
    ones. ``mixture`` is the module that adds the two up, where there are both. ``scale`` multiplies
    the write on its way to the residual stream.
    """

    module: nn.Module
    dense: LinearProjection | None
    experts: Experts | None = None
    mixture: nn.Module | None = None
    scale: float = 1.0

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        dense = () if self.dense is None else (self.dense,)
        return dense if self.experts is None else (*dense, *self.experts.projections)


@dataclass(frozen=True)
class Architecture:
    """A decoder's blocks in order, and every MLP output projection in them."""

    layout: tuple[Block, ...]
    hidden: int

    @cached_property
    def blocks(self) -> tuple[nn.Module, ...]:
        return tuple(block.module for block in self.layout)

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        """All projections, block by block; of a dense model exactly one for each block."""
        return tuple(projection for block in self.layout for projection in block.projections)

    @cached_property
    def _by_place(self) -> dict[tuple[int, int | None], Projection]:
        return {(projection.layer, projection.expert): projection for projection in self.projections}

    def writer(self, layer: int, expert: int | None = None) -> Projection:
        """Return the projection of a block, or of one of its experts; raises `BadInput` if absent."""
        if (layer, expert) in self._by_place:
            return self._by_place[layer, expert]
        if layer >= len(self.layout):
            raise BadInput(f"there is no block {layer}: the model has blocks 0 to {len(self.layout) - 1}")
        experts = self.layout[layer].experts
        if not self.layout[layer].projections:
            raise BadInput(f"block {layer} holds no MLP: it only mixes tokens")
        if experts is None:
            raise BadInput(f"block {layer} has no expert {expert}; it is dense")
        if expert is None:
            raise BadInput(f"block {layer} has only routed experts; name one of 0 to {experts.count - 1}")
        raise BadInput(f"block {layer} has no expert {expert}; it has experts 0 to {experts.count - 1}")

    def projection(self, coordinate: Coordinate) -> Projection:
        """Return the projection that holds ``coordinate``; raises `BadInput` if none does."""
        try:
            projection = self.writer(coordinate.layer, coordinate.expert)
        except BadInput as error:
            raise BadInput(f"coordinate {coordinate}: {error}") from None
        if coordinate.row >= projection.hidden or coordinate.col >= projection.intermediate:
            raise BadInput(
                f"coordinate {coordinate} lies outside the ({projection.hidden}, "
                f"{projection.intermediate}) output projection of block {coordinate.layer}"
            )
        return projection

    def value(self, coordinate: Coordinate) -> float:
        """Return the scalar the model computes with at ``coordinate``."""
        return self.projection(coordinate).value(coordinate.row, coordinate.col)


def inspect_architecture(model: PreTrainedModel) -> Architecture:
    """Find the blocks and output projections of ``model``.

    Raises `UnknownArchitecture`, naming the class and what was looked for, when structure does not
    tell; a model is measured wholly or not at all.
    """
    name = type(model).__name__
    config = model.config.get_text_config()
    count = getattr(config, "num_hidden_layers", None)
    hidden = getattr(config, "hidden_size", None)
    if not isinstance(count, int) or not isinstance(hidden, int):
        raise UnknownArchitecture(
            f"{name} does not say its num_hidden_layers and hidden_size, "
            "so it is no decoder this harness can read"
        )
    if count < 1:
        raise UnknownArchitecture(
            f"{name}: config.json has {count} blocks (num_hidden_layers), and one is needed"
        )
    blocks = _blocks(model, count)
    if blocks is None:
        raise UnknownArchitecture(f"{name}: looked for one list of {count} blocks near the token embedding")
    if any(_is_cross_attention(path) for path, _ in blocks.named_modules()):
        raise UnknownArchitecture(
            f"{name} is a decoder with cross-attention: its blocks also read an encoder, which is not run"
        )
    if _sees_later_tokens(model, blocks):
        raise UnknownArchitecture(
            f"{name} is an encoder: its attention sees later tokens, and a causal decoder was looked for"
        )
    layout = []
    for layer, module in enumerate(blocks):
        block = _block(module, layer, hidden, model.dtype)
        if isinstance(block, str):
            raise UnknownArchitecture(
                f"{name}: looked in block {layer} ({type(module).__name__}) for the linear map by which "
                f"a feed-forward network writes to the {hidden} channels of the residual stream; {block}"
            )
        layout.append(block)
    if not any(block.projections for block in layout):
        raise UnknownArchitecture(
            f"{name}: its {count} blocks hold no feed-forward network, only mixers of tokens, whose output "
            "projections are not looked at"
        )
    return Architecture(tuple(layout), hidden)


def _sees_later_tokens(model: PreTrainedModel, blocks: nn.ModuleList) -> bool:
    return any(getattr(module, "is_causal", None) is False for module in blocks.modules())


def _is_cross_attention(path: str) -> bool:
    return any(
        name in path.lower() for name in ("encoder_attn", "crossattention", "encdecattention", "cross_attn")
    )


def _blocks(model: PreTrainedModel, count: int) -> nn.ModuleList | None:
    """Return the one list of ``count`` modules in the smallest part that also holds the embedding.

    A vision tower may be as deep as the decoder beside it, but has no token embedding.
    """
    embedding = model.get_input_embeddings()
    holding = [part for part in model.modules() if any(inner is embedding for inner in part.modules())]
    for part in sorted(holding, key=lambda part: len(list(part.modules()))):
        inner = part.modules()
        lists = [item for item in inner if isinstance(item, nn.ModuleList) and len(item) == count]
        if lists:
            return lists[0] if len(lists) == 1 else None
    return None


def _block(module: nn.Module, layer: int, hidden: int, dtype: torch.dtype) -> Block | str:
    """Return what a block writes with, or what is wrong with it in words."""
    linear = _linear_projections(module, layer, hidden, dtype)
    routed = [experts for part in module.modules() for experts in _experts(part, layer, hidden, dtype)]
    if len(linear) > 1:
        return f"found {len(linear)}: {', '.join(linear)}"
    if len(routed) > 1:
        return f"found {len(routed)} sets of routed experts"
    if not linear and not routed:
        return Block(module, None) if _only_mixes(module, hidden) else "found none"
    path, dense = next(iter(linear.items()), ("", None))
    experts = routed[0] if routed else None
    if experts is not None and (fault := _unlike(experts.module)):
        return fault
    if dense is not None and experts is None and (fault := _mixer(module, path)):
        return fault
    mixture = None
    if dense is not None and experts is not None:
        mixture = _common_parent(module, dense.module, experts.module)
        if mixture is module:
            return "found a dense network beside routed experts, which nothing but the block adds up"
    scale = getattr(module, NAMING_RULES.write_scale, 1.0)
    return Block(module, dense, experts, mixture, float(scale))


def _linear_projections(
    block: nn.Module, layer: int, hidden: int, dtype: torch.dtype
) -> dict[str, LinearProjection]:
    found = {}
    for path, module in block.named_modules():
        shape = None if _is_mixer(block, path) else _linear_shape(module)
        if shape is not None and shape[0] == hidden:
            transposed = isinstance(module, Conv1D)
            found[path] = LinearProjection(module, layer, *shape, dtype, transposed)
    if len(found) > 1:
        names = NAMING_RULES.output_projections
        found = {path: item for path, item in found.items() if path.rpartition(".")[2] in names}
    return found


def _is_mixer(block: nn.Module, path: str) -> bool:
    """Tell whether a part of a block mixes tokens, or lies in one that does."""
    names = path.split(".")
    parts = [block.get_submodule(".".join(names[: n + 1])) for n in range(len(names))] if path else []
    classes = [type(part).__name__.lower() for part in parts]
    # A block within the block holds more than the mixer it is named after.
    said = " ".join([path.lower(), *(own for own in classes if "layer" not in own)])
    return any(name in said for name in NAMING_RULES.mixers)


def _only_mixes(block: nn.Module, hidden: int) -> bool:
    """Tell whether every matrix of a block lies in a mixer, and there is one."""
    matrices = [
        path.rpartition(".")[0] for path, parameter in block.named_parameters() if parameter.ndim >= 2
    ]
    return bool(matrices) and all(_is_mixer(block, path) for path in matrices)


def _linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return (outputs, inputs) of a linear map, quantised ones included, or None."""
    if isinstance(module, Conv1D):
        return module.nf, module.nx
    outputs = getattr(module, "out_features", None)
    inputs = getattr(module, "in_features", None)
    if isinstance(outputs, int) and isinstance(inputs, int):
        return outputs, inputs
    return None


def _experts(module: nn.Module, layer: int, hidden: int, dtype: torch.dtype) -> Iterator[Experts]:
    transposed = bool(getattr(module, "is_transposed", False))
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.ndim != 3 or name not in NAMING_RULES.output_projections:
            continue
        count, outputs, inputs = parameter.shape
        if transposed:
            outputs, inputs = inputs, outputs
        if outputs == hidden:
            yield Experts(module, name, layer, count, hidden, inputs, dtype, transposed)


def _unlike(experts: nn.Module) -> str:
    """Return how a module of experts differs from those that can be read, or nothing."""
    parameters = inspect.signature(experts.forward).parameters.values()
    positional = [item for item in parameters if item.kind is item.POSITIONAL_OR_KEYWORD]
    if len(positional) != 3 or getattr(experts, "has_post_expert_norm", False):
        return (
            f"found {type(experts).__name__}, which is not called with hidden states, top-k index and "
            "top-k weights, or does more to an expert's write than to weight it"
        )
    return ""


def _mixer(block: nn.Module, path: str) -> str:
    """Return why what holds the projection at ``path`` is no feed-forward network, or nothing."""
    parent = block.get_submodule(path.rpartition(".")[0])
    strange = [name for name, _ in parent.named_parameters(recurse=False)]
    strange += [name for name, part in parent.named_modules() if isinstance(part, nn.modules.conv._ConvNd)]
    if strange:
        return f"found {path}, but {type(parent).__name__} mixes tokens (it has {strange[0]})"
    return ""


def _common_parent(block: nn.Module, *parts: nn.Module) -> nn.Module:
    """Return the smallest module of the block that holds all ``parts``."""
    holding = [module for module in block.modules() if set(parts) <= set(module.modules())]
    return min(holding, key=lambda module: len(list(module.modules())))


def stream(output: Any) -> torch.Tensor:
    """Return the residual stream from what a block returns: a tensor, or a tuple led by it."""
    tensor: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return tensor
