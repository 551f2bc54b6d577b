"""Decoders of transformers that nobody listed: planted by gradient, found by a scan or refused in a line."""

from __future__ import annotations

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tools.decoder_sweep import FOUND, REFUSED, TRACEBACK, WRONG, sweep_one


@pytest.mark.parametrize("model_type", ["llama", "bloom", "mpt", "gpt_bigcode", "cpmant", "gpt2"])
def test_what_was_planted_is_found(model_type):
    """A scalar planted by gradient in every matrix that writes to the stream is found, and no other."""
    outcome = sweep_one(model_type)
    assert FOUND == outcome.result, outcome.line


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("deepseek_v4", "several lanes"),
        ("gemma3n_text", "several lanes"),
        ("qwen4_exp_text", "several lanes"),
        ("llama4_text", "does not add up"),
        ("mamba", "only mixers of tokens"),
        ("bart", "cross-attention"),
    ],
)
def test_what_cannot_be_measured_is_refused_for_its_true_reason(model_type, reason):
    """A refusal is one line that names what the block does."""
    outcome = sweep_one(model_type)
    assert REFUSED == outcome.result
    assert reason in outcome.line


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_no_decoder_is_silently_wrong(model_type):
    """Whatever transformers registers is found, refused in a line, or not runnable; never wrong."""
    outcome = sweep_one(model_type)
    assert outcome.result not in (WRONG, TRACEBACK), outcome.line
