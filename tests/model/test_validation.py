"""Numbers that no model computes with are found wherever they lie, and large ones are none of them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from superweight.core.errors import BrokenModel
from superweight.model.validation import refuse_broken_numbers

LARGEST = torch.finfo(torch.float32).max


def _holding(values: list[float], dtype: torch.dtype) -> PreTrainedModel:
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor(values, dtype=torch.float64).to(dtype), requires_grad=False)
    return cast(PreTrainedModel, model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "broken",
    [[torch.nan], [torch.inf], [-torch.inf], [torch.inf, -torch.inf], [torch.nan, torch.inf]],
    ids=str,
)
def test_a_number_that_is_none_is_found_in_every_dtype(dtype, broken):
    """NaN, infinity, and two infinities that would cancel in a sum, are refused by the tensor's name."""
    with pytest.raises(BrokenModel, match="tensor weight holds NaN or infinity"):
        refuse_broken_numbers(_holding([1.0, *broken, 2.0], dtype), Path("model"))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([LARGEST, LARGEST, 1.0], torch.float32),
        ([-LARGEST, -LARGEST], torch.float32),
        ([60_000.0] * 4, torch.float16),
        ([LARGEST * 10] * 2, torch.float64),
        ([448.0] * 4, torch.float8_e4m3fn),
        ([57_344.0] * 4, torch.float8_e5m2),
    ],
)
def test_numbers_whose_sum_is_infinite_are_no_damage(values, dtype):
    """What is finite by itself passes, however large the numbers are together."""
    refuse_broken_numbers(_holding(values, dtype), Path("model"))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_nan_of_eight_bits_is_found(dtype):
    """Numbers of 8 bits, which torch does not ask whether they are finite, are asked as wider ones."""
    with pytest.raises(BrokenModel, match="tensor weight holds NaN or infinity"):
        refuse_broken_numbers(_holding([1.0, torch.nan], dtype), Path("model"))
