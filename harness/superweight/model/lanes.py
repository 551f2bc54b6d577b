"""A residual stream in several lanes (hyper-connections, AltUp): which is which, and which one leads.

Of each token and channel the lane with the largest magnitude is the one in which it is carried.
"""

from __future__ import annotations

import torch

from superweight.core.errors import UnknownArchitecture


def lanes_of(stream: torch.Tensor, hidden: int, tokens: tuple[int, int]) -> torch.Tensor:
    """Return a stream as (lanes, sequences, tokens, hidden); one lane where it is a plain one.

    Lanes may be the first axis, the one before the channels, or lie side by side in the channels.
    ``tokens`` are (sequences, tokens). Raises `UnknownArchitecture` on any other shape.
    """
    shape = tuple(stream.shape)
    if stream.ndim == 3 and shape[-1] == hidden:
        return stream[None]
    if stream.ndim == 3 and shape[-1] % hidden == 0:
        side_by_side: torch.Tensor = stream.unflatten(-1, (-1, hidden))
        return side_by_side.permute(2, 0, 1, 3)
    if stream.ndim == 4 and shape[-1] == hidden and shape[:2] == tokens:
        return stream.permute(2, 0, 1, 3)
    if stream.ndim == 4 and shape[-1] == hidden and shape[1:3] == tokens:
        return stream
    raise UnknownArchitecture(
        f"its blocks hand on a stream of shape {shape}, and one of {hidden} channels for each of "
        f"{tokens[1]} tokens in {tokens[0]} sequences was looked for"
    )


def leading_lane(lanes: torch.Tensor) -> torch.Tensor | None:
    """Return the lane of the largest magnitude, (sequences, tokens, hidden); None where there is one."""
    return None if len(lanes) == 1 else lanes.abs().argmax(0)


def in_lane(lanes: torch.Tensor, lane: torch.Tensor | None) -> torch.Tensor:
    """Return each entry in its own lane: (sequences, tokens, hidden)."""
    return lanes[0] if lane is None else lanes.gather(0, lane[None])[0]
