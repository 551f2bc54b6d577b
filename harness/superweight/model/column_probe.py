"""Read columns of a matrix as a module really computes with it, by one-hot inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def one_hot_inputs(
    cols: Sequence[int] | torch.Tensor, width: int, *, dtype: torch.dtype, device: torch.device | str
) -> torch.Tensor:
    """Return an input for each column, and one of zeros behind them: (len(cols) + 1, width)."""
    inputs = torch.zeros(len(cols) + 1, width, dtype=dtype, device=device)
    if len(cols) == 1:
        inputs[0, int(cols[0])].fill_(1)  # an index is quicker than a tensor of one
    else:
        # Nothing is assigned at an index: where that comes from the host, an accelerator is waited for.
        read = torch.as_tensor(cols).to(device, non_blocking=True)
        inputs[:-1] = read[:, None] == torch.arange(width, device=device)
    return inputs


def without_bias(answer: torch.Tensor) -> torch.Tensor:
    """Return the columns that the answer to `one_hot_inputs` shows: (len(cols), hidden).

    The input of zeros is answered with the bias.
    """
    return answer[:-1] - answer[-1:] if bool(answer[-1].any()) else answer[:-1]
