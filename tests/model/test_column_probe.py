"""Columns of a matrix are read by inputs that are one at the column and zero elsewhere."""

from __future__ import annotations

import pytest
import torch

from superweight.model.column_probe import one_hot_inputs, without_bias


@pytest.mark.parametrize("cols", [[3], [0, 4, 2], [1, 1], torch.tensor([4, 0]), range(5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_input_is_one_at_its_column(cols, dtype):
    """In the order of the columns, and one of zeros behind them."""
    inputs = one_hot_inputs(cols, 5, dtype=dtype, device="cpu")
    wanted = torch.cat([torch.eye(5)[torch.as_tensor(cols)], torch.zeros(1, 5)])
    assert dtype == inputs.dtype
    assert torch.equal(wanted.to(dtype), inputs)


@pytest.mark.parametrize("bias", [False, True])
def test_the_answer_shows_the_columns(bias):
    """Whatever the bias is, which the input of zeros is answered with."""
    linear = torch.nn.Linear(5, 3, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        answer = linear(one_hot_inputs([4, 1], 5, dtype=torch.float64, device="cpu"))
        assert torch.allclose(linear.weight.T[[4, 1]], without_bias(answer), atol=1e-12)
