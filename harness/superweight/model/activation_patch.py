"""Activation patching: change what a block hands on, within a forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from superweight.model.residual_stream import plain_stream, with_stream


def patch_stream(block: nn.Module, hidden: int, change: Callable[[torch.Tensor], None]) -> RemovableHandle:
    """Let ``change`` write into a copy of the stream behind a block, (sequences, tokens, hidden).

    What the block returned is left as it was: other modules may hold on to it. Raises
    `UnknownArchitecture` in the pass where the stream is in several lanes.
    """

    def patched(_: nn.Module, arguments: Any, output: Any) -> Any:
        residual = plain_stream(output, hidden).clone()
        change(residual)
        return with_stream(output, residual)

    return block.register_forward_hook(patched)
