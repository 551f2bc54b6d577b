"""Real quantisers, torchao and bitsandbytes: what they compute with, and what a hold-out restores."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from superweight.claims.paper import weight_quantization
from superweight.core.coordinates import Coordinate
from superweight.core.errors import EditFailed
from superweight.detection.scan import scan
from superweight.measurement.corpus import cut, default_prompt, documents
from superweight.quantization.backend_sweep import Refused, by_block_size, real_sweep
from superweight.quantization.backends import QUANTISERS, really_quantised
from superweight.quantization.losses import nll, split
from tests.helpers.live_models import logits

PLACE, BESIDE = Coordinate(1, 41, 23), Coordinate(1, 41, 24)
INT4_32, INT4_ROWS = (QUANTISERS[f"torchao int4 weight-only, {what}"] for what in ("blocks of 32", "rows"))
RUNNING = ["torchao int8 weight-only, rows", str(INT4_32), str(INT4_ROWS), "bitsandbytes int8, rows"]

# torchao and bitsandbytes greet with warnings of their own.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", RUNNING)
def test_the_model_computes_with_the_quantised_modules(name, planted):
    """Its answers change while they stand in, and are the same bits afterwards."""
    before = logits(planted)
    with really_quantised(planted, QUANTISERS[name]):
        quantised = logits(planted)
    assert not torch.equal(before, quantised)
    assert float((before - quantised).abs().max()) < 5
    assert torch.equal(before, logits(planted))


@pytest.mark.parametrize("name", RUNNING)
def test_holding_out_restores_the_scalar_and_spares_its_row(name, planted):
    """The super weight is exact within two roundings, and its neighbours move less than without."""
    value, other = planted.architecture.value(PLACE), planted.architecture.value(BESIDE)
    with really_quantised(planted, QUANTISERS[name]):
        plain = abs(planted.architecture.value(BESIDE) - other)
    with really_quantised(planted, QUANTISERS[name], hold_out_super_weights=[PLACE]):
        assert value == pytest.approx(planted.architecture.value(PLACE), rel=1e-6)
        assert abs(planted.architecture.value(BESIDE) - other) < plain
    assert value == planted.architecture.value(PLACE)


def test_clipping_without_holding_out_loses_the_super_weight(planted):
    """What is clipped before a real quantiser rounds is gone, and comes back with the hold-out."""
    with really_quantised(planted, INT4_ROWS, clip=6.0):
        assert planted.architecture.value(PLACE) < 2
    with really_quantised(planted, INT4_ROWS, clip=6.0, hold_out_super_weights=[PLACE]):
        assert 4.0 == pytest.approx(planted.architecture.value(PLACE), rel=1e-6)


def test_blocks_that_do_not_fit_are_refused_by_name(planted, refusal):
    """160 inputs are no multiple of 64: one line with the reason, and nothing is left changed."""
    before = logits(planted)
    for name in ("torchao int4 weight-only, blocks of 64", "bitsandbytes nf4, blocks of 64"):

        def enter(name=name):
            with really_quantised(planted, QUANTISERS[name]):
                pass

        assert "does not take block 0, mlp.down_proj" in refusal(enter)
    assert torch.equal(before, logits(planted))


def test_a_kernel_that_computes_something_else_is_found_out(planted):
    """The largest entry of every matrix must come back within a step of its own block."""

    def scrambled(linear):
        linear.weight = nn.Parameter(linear.weight.flip(0), requires_grad=False)
        return linear

    with pytest.raises(EditFailed, match="that is no rounding"):
        with really_quantised(planted, replace(INT4_32, build=scrambled)):
            pass


def test_a_quantiser_that_does_nothing_is_found_out(planted):
    """A float module in place of a quantised one would make every scheme look lossless."""
    with pytest.raises(EditFailed, match="left every matrix as it was"):
        with really_quantised(planted, replace(INT4_32, build=lambda linear: linear)):
            pass


def test_a_missing_library_is_named(planted, refusal):
    """One line says what to install."""

    def enter():
        with really_quantised(planted, replace(INT4_32, library="nosuchlibrary")):
            pass

    assert "pip install 'superweight-harness[builds]'" in refusal(enter)


def test_the_claim_runs_on_a_real_quantiser(planted):
    """C13 over torchao's int4 kernels, from blocks of 32 to whole rows: holding out wins at rows."""
    text = split(cut(planted, documents("builtin"), "builtin"), 12)
    found = scan(planted, default_prompt())
    rows = real_sweep(planted, found, text, [INT4_ROWS, INT4_32])
    blocks = by_block_size(rows, longest_row=160)
    assert [32, 160] == [block.size for block in blocks]
    verdict = weight_quantization.verdict_on(nll(planted, text.measured), blocks)
    won = [float((block.plain - block.held_out).mean()) for block in blocks]
    assert won[1] == pytest.approx(verdict.criteria[0].statistic.value)
    assert won[1] - won[0] == pytest.approx(verdict.criteria[1].statistic.value)
    # A row of 160 is a small block: what is won is below what the windows resolve.
    assert 0 < won[1] < weight_quantization.GAIN


def test_a_sweep_says_which_quantisers_do_not_run(planted):
    """A refusal is a row of the result, not the end of it."""
    text = split(cut(planted, documents("builtin"), "builtin"), 8)
    found = scan(planted, default_prompt())
    chosen = [QUANTISERS["torchao int4 weight-only, blocks of 192"], INT4_32]
    refused, measured = real_sweep(planted, found, text, chosen)
    assert isinstance(refused, Refused)
    assert "192" in refused.reason
    assert INT4_32 is measured.quantiser
