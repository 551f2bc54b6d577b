"""Activation patching: change what a block hands on, within a forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from superweight.model.architecture import stream


def patch_stream(block: nn.Module, change: Callable[[torch.Tensor], None]) -> RemovableHandle:
    """Let ``change`` write into a copy of the stream behind a block, (sequences, tokens, hidden).

    What the block returned is left as it was: other modules may hold on to it.
    """

    def patched(_: nn.Module, arguments: Any, output: Any) -> Any:
        residual = stream(output).clone()
        change(residual)
        return residual if isinstance(output, torch.Tensor) else (residual, *output[1:])

    return block.register_forward_hook(patched)
