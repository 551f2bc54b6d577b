"""Blocks that hold two dense MLPs one after the other, seen as two blocks each (LongCat-Flash).

Each half has an attention and a dense MLP of its own, and its own place in the order of the pass. What
the experts read in the first half is added to the stream behind the second one, so they belong to that.
The block then runs as its halves, and the first pass proves that this is what its class computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from superweight.core.errors import UnknownArchitecture

# The parts of a block that come in pairs, and what a half calls its own.
_PAIRED = {
    "input_layernorm": "input_layernorm",
    "self_attn": "self_attn",
    "post_attention_layernorm": "post_attention_layernorm",
    "mlps": "mlp",
}

# How far the halves may lie from the block, in steps of the dtype at its largest value.
_ROUNDINGS = 64.0


class HalfBlock(nn.Module):
    """One half of a block: the parts are the block's own.

    The first half also returns what the experts, ``shortcut``, read; the second one is given it.
    """

    def __init__(self, block: nn.Module, half: int, shortcut: nn.Module | None) -> None:
        super().__init__()
        for pair, own in _PAIRED.items():
            self.add_module(own, block.get_submodule(f"{pair}.{half}"))
        self.shortcut = shortcut

    def forward(self, hidden_states: torch.Tensor, read: torch.Tensor | None = None, **keywords: Any) -> Any:
        parts = self._modules
        normed = parts["input_layernorm"](hidden_states)  # type: ignore[misc]  # always there
        attended, _ = parts["self_attn"](hidden_states=normed, **keywords)  # type: ignore[misc]
        residual = hidden_states + attended
        normed = parts["post_attention_layernorm"](residual)  # type: ignore[misc]
        written = residual + parts["mlp"](normed)  # type: ignore[misc]
        return (written, normed) if self.shortcut is None else written + self.shortcut(read)


class _InHalves:
    """What stands in place of a block's own forward."""

    def __init__(self, block: nn.Module) -> None:
        self.whole = block.forward
        self.halves = (HalfBlock(block, 0, None), HalfBlock(block, 1, block.get_submodule("mlp")))
        for half in self.halves:
            half.train(block.training)
        self.proven = False

    def __call__(self, hidden_states: Any, **keywords: Any) -> Any:
        plain = isinstance(hidden_states, torch.Tensor) and keywords.get("past_key_values") is None
        # A resumed pass hands on what lies behind the blocks that it skips.
        if self.proven or not plain or any("forward" in vars(half) for half in self.halves):
            return self._run(hidden_states, keywords)
        wanted = self.whole(hidden_states, **keywords)
        got = self._alone(hidden_states, keywords)
        apart, size = float((got - wanted).abs().max()), float(wanted.abs().max())
        if apart > _ROUNDINGS * torch.finfo(wanted.dtype).eps * size:
            raise UnknownArchitecture(
                f"{HalfBlock.__name__}: two halves, each of an attention and a dense MLP, do not make up "
                f"the block (they differ by {apart:g}), so nothing is measured"
            )
        self.proven = True
        return self._run(hidden_states, keywords)

    def _run(self, hidden_states: Any, keywords: dict[str, Any]) -> Any:
        handed = self.halves[0](hidden_states, **keywords)
        return self.halves[1](*(handed if isinstance(handed, tuple) else (handed,)), **keywords)

    def _alone(self, hidden_states: torch.Tensor, keywords: dict[str, Any]) -> torch.Tensor:
        """Return what the halves come to, without the hooks that watch or edit a half."""
        handed = self.halves[0].forward(hidden_states, **keywords)
        behind: torch.Tensor = self.halves[1].forward(*handed, **keywords)
        return behind


def in_halves(blocks: nn.ModuleList) -> nn.ModuleList:
    """Return the halves of blocks that hold two dense MLPs, or the blocks as they are."""
    if not all(map(_is_double, blocks)):
        return blocks
    halves: list[nn.Module] = []
    for block in blocks:
        forward = vars(block).get("forward")
        if not isinstance(forward, _InHalves):
            forward = _InHalves(block)
            vars(block)["forward"] = forward
        halves += forward.halves
    return nn.ModuleList(halves)


def whole_blocks(model: nn.Module, blocks: Sequence[nn.Module]) -> tuple[nn.Module, ...]:
    """Return the model's own blocks, whose halves may be what is measured."""
    if not isinstance(blocks[0], HalfBlock):
        return tuple(blocks)
    return tuple(part for part in model.modules() if isinstance(vars(part).get("forward"), _InHalves))


def _is_double(block: nn.Module) -> bool:
    pairs = [getattr(block, pair, None) for pair in _PAIRED]
    paired = all(isinstance(pair, nn.ModuleList) and len(pair) == 2 for pair in pairs)
    return paired and isinstance(getattr(block, "mlp", None), nn.Module)
