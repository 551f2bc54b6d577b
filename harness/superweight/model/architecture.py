"""Find a decoder's blocks and, in each block, the projections by which its MLP writes.

Both are found by structure, not by model name: `block_list` finds the blocks, `block_writers` what they
write with. What neither structure nor a rule of naming tells is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import nn
from transformers import PreTrainedModel

from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput, UnknownArchitecture
from superweight.model.block_list import (
    block_list,
    depth_and_width,
    listed,
    named_lists,
    no_one_list,
    sees_later_tokens,
    told_by,
)
from superweight.model.block_writers import Block, block_writers
from superweight.model.half_blocks import in_halves
from superweight.model.projections import Projection


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
    count, hidden = depth_and_width(model)
    if count is None or hidden is None:
        raise UnknownArchitecture(
            f"{name} does not say its num_hidden_layers and hidden_size, "
            "so it is no decoder this harness can read"
        )
    if count < 1:
        raise UnknownArchitecture(
            f"{name}: config.json has {count} blocks (num_hidden_layers), and one is needed"
        )
    if told_by(model.config) is None and len(lists := named_lists(model, count)) > 1:
        raise UnknownArchitecture(
            f"{name}: config.json says no depth of the whole, and its blocks lie in {listed(lists)}, which "
            "hand on streams of their own"
        )
    blocks = block_list(model, count)
    if blocks is None:
        raise UnknownArchitecture(f"{name}: {no_one_list(model, count)}")
    blocks = in_halves(blocks)
    if sees_later_tokens(model, blocks):
        raise UnknownArchitecture(
            f"{name} is an encoder, or reads a prompt as one: its attention sees later tokens, and a causal "
            "decoder was looked for"
        )
    layout = []
    for layer, module in enumerate(blocks):
        block = block_writers(module, layer, hidden, model.dtype)
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
