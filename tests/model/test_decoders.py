"""Decoders of transformers that nobody listed: planted by gradient, found by a scan or refused in a line."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tools import decoder_sweep, tiny_configs
from tools.decoder_sweep import (
    CAUSAL,
    FOUND,
    IMAGE_TEXT,
    NOT_CARRIED,
    REFUSED,
    TRACEBACK,
    VARIANT,
    WRONG,
    jobs,
    sweep_one,
)

# One of each way in which a block may write, and of each shape of a stream.
SAMPLE = ["mpt", "llama4_text", "nemotron_h", "gemma3n_text", "jetmoe", "longcat_flash"]


@pytest.mark.parametrize("model_type", SAMPLE)
def test_what_was_planted_is_found(model_type):
    """A scalar planted by gradient in every matrix that writes to the stream is found, and no other.

    Its twin without the plant has none, and pruning it is proven and undone.
    """
    outcome = sweep_one(model_type)
    assert FOUND == outcome.result, outcome.line


@pytest.mark.parametrize(
    ("classes", "key"),
    [
        (VARIANT, "gemma4_text#26B-A4B-moe"),
        (VARIANT, "whisper#turbo"),
        (IMAGE_TEXT, "udop"),
        (IMAGE_TEXT, "fast_vlm"),
    ],
)
def test_what_families_ship_and_what_lies_inside_others_is_found(classes, key):
    """Experts beside a dense network, an encoder of another depth, an MLP in a list, a tower of timm."""
    outcome = sweep_one(key, classes)
    assert FOUND == outcome.result, outcome.line


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("mamba", "only mixers of tokens"),
        ("zamba", "what its MLP writes is read by linear (Linear)"),
        ("hrm_text", "12 blocks, so they run several times (it is looped)"),
        ("inkling2_text", "what its MLP writes is read by post_mlp_convolution"),
        ("xlnet", "its attention sees later tokens"),
        ("xlm", "the parts of a block lie in lists of their own"),
        ("rwkv", "RwkvFeedForward mixes tokens (it has time_mix_key)"),
        ("xmod", "found output.dense, output.adapter_modules.en_XX.dense2, none under a name that tells"),
        ("blt", "config.json says no depth of the whole, and its blocks lie in model.local_encoder.layers"),
        ("inkling_text", "2 sets of routed experts (InklingExperts, InklingSharedExperts)"),
        ("doge#moe", "mlp.down_embed, an embedding that holds an expert in each row"),
        ("nemotron_h#3-super-latent-moe", "whose experts do not write to the stream"),
    ],
)
def test_what_cannot_be_measured_is_refused_for_its_true_reason(model_type, reason):
    """A refusal is one line that names what the block does."""
    outcome = sweep_one(model_type, VARIANT if "#" in model_type else CAUSAL)
    assert REFUSED == outcome.result
    assert reason in outcome.line


@pytest.mark.parametrize("model_type", ["megatron-bert"])
def test_what_sees_later_tokens_is_refused(model_type, monkeypatch):
    """Megatron-BERT has the blocks of a decoder, and is bidirectional unless its config says otherwise."""
    monkeypatch.setitem(tiny_configs.OVERRIDES, model_type, {"is_decoder": False})
    outcome = sweep_one(model_type)
    assert REFUSED == outcome.result
    assert "its attention sees later tokens" in outcome.line


def test_a_plant_that_no_stream_carries_is_not_called_found():
    """A norm behind every sum brings the stream back to size: there is nothing to find, and none is."""
    outcome = sweep_one("openai-gpt")
    assert NOT_CARRIED == outcome.result


@pytest.mark.parametrize("spoilt", ["nothing", "another", "traceback"])
def test_the_sweep_says_so_when_a_scan_is_wrong(spoilt, monkeypatch):
    """A scan that misses the plant, names another scalar or fails is no finding."""
    calls = []

    def scan(subject, text):
        calls.append(text)
        found = real(subject, text)
        if len(calls) == 1:
            return found  # of the twin
        if spoilt == "traceback":
            raise KeyError("lost")
        weights = () if spoilt == "nothing" else tuple(map(_beside, found.super_weights))
        return replace(found, super_weights=weights)

    real = decoder_sweep.scan
    monkeypatch.setattr(decoder_sweep, "scan", scan)
    outcome = sweep_one("llama")
    assert (TRACEBACK if spoilt == "traceback" else WRONG) == outcome.result


def _beside(weight):
    place = weight.coordinate
    return replace(weight, coordinate=replace(place, col=(place.col + 1) % 8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "key"),
    [(classes, key) for classes in (CAUSAL, VARIANT, IMAGE_TEXT) for key in jobs(classes)],
)
def test_no_decoder_is_silently_wrong(classes, key):
    """Whatever transformers registers is found, refused in a line, or not runnable; never wrong."""
    outcome = sweep_one(key, classes)
    assert outcome.result not in (WRONG, TRACEBACK), outcome.line


def test_every_registered_class_is_swept():
    """What transformers registers for causal language modelling is the table's, no more and no less."""
    assert set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) == set(jobs(CAUSAL))
