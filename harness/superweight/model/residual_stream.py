"""Take the residual stream out of what a block returns, and put another one in."""

from __future__ import annotations

from typing import Any

import torch

from superweight.core.errors import UnknownArchitecture


def stream(output: Any) -> torch.Tensor:
    """Return the residual stream from what a block returns: a tensor, or a tuple led by it."""
    tensor: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return tensor


def plain_stream(output: Any, hidden: int) -> torch.Tensor:
    """Return the residual stream from what a block returns; refuse one in several lanes."""
    tensor = stream(output)
    if tensor.ndim != 3 or tensor.shape[-1] != hidden:
        raise UnknownArchitecture(
            f"its residual stream runs in several lanes, {tuple(tensor.shape)}: a scan finds what they "
            "carry, but an activation there cannot be held at a value"
        )
    return tensor


def with_stream(output: Any, stream: torch.Tensor) -> Any:
    """Return what a block returns with another residual stream in it."""
    if isinstance(output, torch.Tensor):
        return stream
    parts = (stream, *output[1:])
    return type(output)(*parts) if hasattr(output, "_fields") else parts
