"""Rows that ride along in one pass: the same as a pass of their own, wherever a block computes on them."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superweight.model.architecture import inspect_architecture
from superweight.model.batch_rows import entering, rows_do_not_fit, with_rows
from superweight.model.linear_fit import fitted
from superweight.model.residual_stream import stream
from tools.decoder_sweep import CAUSAL, FOUND, NOT_CARRIED, build, jobs, sweep_one

IDS = torch.tensor([[40, 90, 17, 201, 33, 64, 8]])


def last_stream(model, blocks, hook, first):
    """Return the stream after the last block; ``hook`` changes what the blocks from ``first`` on read."""
    seen = []
    with ExitStack() as hooks, torch.no_grad():
        for layer, block in enumerate(blocks[first:], first):
            handle = block.register_forward_pre_hook(hook(layer == first), with_kwargs=True)
            hooks.callback(handle.remove)
        hooks.callback(blocks[-1].register_forward_hook(lambda *said: seen.append(stream(said[2]))).remove)
        model.base_model(input_ids=IDS, use_cache=False)
    return seen[0]


def riding_along(change):
    def hook(joins):
        def join(_, arguments, keywords):
            hidden = entering(arguments, keywords)
            rows = torch.cat([hidden, hidden + change]) if joins else hidden
            return with_rows(rows, 1, arguments, keywords)

        return join

    return hook


def by_itself(change):
    def hook(begins):
        def move(_, arguments, keywords):
            if not begins:
                return None
            return with_rows(entering(arguments, keywords) + change, 1, arguments, keywords)

        return move

    return hook


def decoder(model_type):
    model = build(jobs(CAUSAL)[model_type])
    return model, inspect_architecture(model).blocks


def agree(model_type, first, channel, amount):
    """Tell whether both ways agree, or a block's own arithmetic refused the rows."""
    model, blocks = decoder(model_type)
    change = torch.zeros(64)
    change[channel] = amount
    alone = last_stream(model, blocks, by_itself(change), first)
    intact = last_stream(model, blocks, by_itself(0 * change), first)
    try:
        rows = last_stream(model, blocks, riding_along(change), first)
    except RuntimeError as error:
        if not rows_do_not_fit(error):
            raise
        return "does not fit"
    near = 1e-4 * max(1.0, float(alone.abs().max()))
    assert float((rows[0] - intact[0]).abs().max()) <= near
    assert float((rows[1] - alone[0]).abs().max()) <= near
    return "agrees"


@settings(max_examples=4, deadline=None)
@given(first=st.integers(1, 5), channel=st.integers(0, 63), amount=st.floats(-1e3, 1e3))
@pytest.mark.parametrize("model_type", ["llama", "bloom", "gemma2", "deepseek_v3", "falcon_h1"])
def test_a_row_that_rides_along_is_a_pass_of_its_own(model_type, first, channel, amount):
    """From any block on, with any change to a channel, and the row beside it is left as it was."""
    assert "agrees" == agree(model_type, first, channel, amount)


@pytest.mark.parametrize("model_type", ["mpt", "gpt_bigcode"])
def test_a_block_made_for_one_row_is_known_by_its_error(model_type):
    """MPT's biases and GPT-BigCode's views are of the one sequence: a second pass follows."""
    assert "does not fit" == agree(model_type, 2, 5, 100.0)


def test_no_other_error_counts_as_rows_that_do_not_fit():
    """Not one of memory, not one with another message, and not one that this package raises."""

    def raised(error):
        with pytest.raises(RuntimeError) as caught:
            raise error
        return caught.value

    assert rows_do_not_fit(raised(RuntimeError("the size of tensor a must match")))
    assert not rows_do_not_fit(raised(RuntimeError("a kernel is missing")))
    assert not rows_do_not_fit(raised(torch.OutOfMemoryError("out of memory: size 12")))
    with pytest.raises(RuntimeError, match="size") as caught:
        fitted(torch.ones(2, 3), [torch.ones(2, 4)])
    assert not rows_do_not_fit(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", jobs(CAUSAL))
def test_both_ways_agree_wherever_both_run(model_type):
    """Of every class that the sweep finds something in, and whose stream is one of rows."""
    outcome = sweep_one(model_type)
    if outcome.result not in (FOUND, NOT_CARRIED):
        pytest.skip(f"{outcome.result}: {outcome.line}")
    shapes = []
    model, blocks = decoder(model_type)
    handle = blocks[0].register_forward_hook(lambda *said: shapes.append(stream(said[2]).shape))
    with torch.no_grad():
        model.base_model(input_ids=IDS, use_cache=False)
    handle.remove()
    if tuple(shapes[0]) != (1, IDS.shape[1], 64):
        pytest.skip(f"no row joins a stream of shape {tuple(shapes[0])}")
    assert agree(model_type, 2, 5, 100.0) in ("agrees", "does not fit")
