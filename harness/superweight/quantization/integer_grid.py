"""Round-to-nearest on uniform integer grids, quantise and dequantise at once; equation 1 of section 4."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from superweight.core.errors import BadInput
from superweight.quantization.granularity import Layout

BITS = range(2, 17)


@dataclass(frozen=True)
class Scheme:
    """An integer grid of 2^bits levels, or one fewer where it is symmetric.

    Symmetric is the paper's formula: the step is max|x| / (2^(bits-1) - 1), and the grid reaches
    as far below zero as above. Asymmetric has the step of the paper's released code,
    (max x - min x) / (2^bits - 1), and an integer that stands for zero, as integer kernels have.
    """

    bits: int
    symmetric: bool = True

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise BadInput(f"cannot round to {self.bits} bits; give {BITS.start} to {BITS.stop - 1}")

    @property
    def levels(self) -> tuple[int, int]:
        """The least and the greatest integer of the grid."""
        if self.symmetric:
            greatest = 2 ** (self.bits - 1) - 1
            return -greatest, greatest
        return 0, 2**self.bits - 1

    def __str__(self) -> str:
        return f"INT{self.bits} {'symmetric' if self.symmetric else 'asymmetric'}"


INT8, INT4 = Scheme(8), Scheme(4)
INT8_ASYMMETRIC, INT4_ASYMMETRIC = Scheme(8, symmetric=False), Scheme(4, symmetric=False)


def step_of(block: torch.Tensor, scheme: Scheme, dims: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the step and the integer that stands for zero, one of each for every block.

    A block is what ``dims`` of ``block`` span; they are kept with length 1. Zero is always on the
    grid. Where a block holds nothing but zero the step is 1.
    """
    least, greatest = block.amin(dims, keepdim=True), block.amax(dims, keepdim=True)
    low, high = scheme.levels
    if scheme.symmetric:
        step = torch.maximum(-least, greatest) / high
        zero = torch.zeros_like(step)
    else:
        least = least.clamp_max_(0)
        step = (greatest.clamp_min_(0) - least) / (high - low)
        # A step of zero is no divisor; it is put right below.
        zero = torch.round(-least / step.where(step > 0, 1.0))
    return step.where(step > 0, 1.0), zero


def round_to_grid_(block: torch.Tensor, scheme: Scheme, step: torch.Tensor, zero: torch.Tensor) -> None:
    """Round to the nearest level in place; what lies beyond the grid lands on its end."""
    low, high = scheme.levels
    block.div_(step).round_()
    if scheme.symmetric:  # zero stands for itself: two passes over the matrix less
        block.clamp_(low, high)
    else:
        block.add_(zero).clamp_(low, high).sub_(zero)
    block.mul_(step)


def round_(values: torch.Tensor, scheme: Scheme, layout: Layout) -> torch.Tensor:
    """Round a matrix in place, each block of ``layout`` by its own step, and return it.

    Beyond the matrix this needs one number a block. Raises `BadInput` for integers.
    """
    if not values.is_floating_point():
        raise BadInput(f"a matrix of {values.dtype} is rounded already")
    for block, dims in layout.split(values):
        round_to_grid_(block, scheme, *step_of(block, scheme, dims))
    return values
