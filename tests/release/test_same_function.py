"""The same function with other coordinates is kept, and what moved is said; another function is damage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from superweight.checkpoints.model_ref import parse_model
from superweight.checkpoints.registry import resolve
from superweight.claims.run_config import RunConfig
from superweight.core.coordinates import Coordinate
from superweight.release.compare import CompareRequest, compare
from superweight.release.function_match import Jump, _mirrored
from superweight.release.limits import Limits
from superweight.release.result import DEPTHS, QUALITY, STATIC, Comparison
from superweight.release.side import over
from superweight.release.text_checks import risen

from .measured_base import measured_base
from .releases import make, scaled, unchanged
from .symmetries import SYMMETRIES

PLACE = Coordinate(1, 41, 23)
BASELINES = Path(__file__).parents[1] / "claims" / "baselines"


@pytest.fixture(scope="module")
def base():
    entry = resolve("tiny-planted")
    return entry.root / entry.source


def compared(release, *, depths=DEPTHS):
    request = CompareRequest(
        parse_model("tiny-planted"),
        parse_model(str(release)),
        depths=depths,
        run_config=RunConfig(baselines=BASELINES),
    )
    return compare(request, held=measured_base())


def found(result: Comparison):
    return {check.name: check for check in result.checks}


# What the check of the function says has moved.
SAID = {
    "intermediate neurons permuted": "the same super weights elsewhere: [1, 41, 23] is now [1, 41, ",
    "residual channels permuted": "the same super weights elsewhere: [1, 41, 23] is now [1, ",
    "stream rotated": "rotated: the base's scalars have no counterpart",
}


@pytest.mark.parametrize("name", list(SYMMETRIES))
def test_the_same_function_is_kept_and_what_moved_is_said(name, base, tmp_path):
    """Perplexity is the base's, and so is what the strongest neuron does along the stream."""
    result = compared(make(base, tmp_path / "release", SYMMETRIES[name], [PLACE]))
    checks = found(result)
    assert "kept" == result.verdict
    assert 1.0 == pytest.approx(checks["perplexity"].figures["ratio"], abs=0.01)
    function = checks["function of the super weights"]
    assert function.figures["base"][0] == pytest.approx(function.figures["release"][0], rel=0.01)
    assert SAID.get(name, "the base's strongest neurons write") in function.reason


def test_a_neuron_that_moved_in_one_matrix_alone_is_no_permutation(base, tmp_path):
    """What feeds it stayed behind."""

    def change(tensors, places):
        name = "model.layers.1.mlp.down_proj.weight"
        tensors[name] = tensors[name].roll(1, dims=1)

    result = compared(make(base, tmp_path / "release", change, [PLACE]))
    assert "damaged" == result.verdict
    assert "damaged" == found(result)["function of the super weights"].status


@pytest.mark.parametrize(("factor", "status"), [(0.8, "kept"), (0.5, "damaged")])
def test_the_function_bears_a_little_and_not_half(factor, status, base, tmp_path):
    """A super weight a fifth smaller does its work still; half of it does not."""
    result = compared(make(base, tmp_path / "release", scaled(factor), [PLACE]))
    assert status == found(result)["function of the super weights"].status
    assert status == result.verdict


def with_chat_tokens(folder, count=8):
    """Add tokens for chat as a fine-tune does: rows in both ends, the tokenizer and the config."""
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        mean = tensors[name].float().mean(0, keepdim=True).to(tensors[name].dtype)
        tensors[name] = torch.cat([tensors[name], mean.repeat(count, 1)])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for file in ("config.json", "tokenizer.json"):
        document = json.loads((folder / file).read_text())
        if file == "config.json":
            document["vocab_size"] += count
        else:
            first = document["added_tokens"][0]
            document["added_tokens"] += [
                first | {"id": 257 + number, "content": f"<|chat {number}|>"} for number in range(count)
            ]
        (folder / file).write_text(json.dumps(document))


def test_added_chat_tokens_are_kept(base, tmp_path):
    """The most ordinary fine-tune: new rows are told, and predictions go over the tokens both have."""
    release = make(base, tmp_path / "release", unchanged, [PLACE])
    with_chat_tokens(release)
    result = compared(release)
    assert "kept" == result.verdict
    assert "8 new rows" in found(result)["structure"].reason
    assert 1.0 == pytest.approx(found(result)["perplexity"].figures["ratio"], abs=1e-4)


def test_predictions_over_shared_tokens_are_renormalised():
    """What the new tokens took is given back: half of the mass lost makes the rest twice as likely."""
    two = torch.tensor([[[0.5, 0.5]]]).log()
    three = torch.tensor([[[0.25, 0.25, 0.5]]]).log()
    for given in (two, three):
        torch.testing.assert_close(over(given, 2), two)


@pytest.mark.parametrize(
    ("status", "ratio"), [("kept", 1.0), ("kept", 1.09), ("degraded", 1.2), ("damaged", 1.6)]
)
def test_perplexity_is_kept_degraded_or_damaged(status, ratio):
    """By the low end: from 1.1 worse, from 1.5 damage; NaN is damage."""
    base = torch.zeros(8, 4).double().numpy()
    assert status == risen("perplexity", base, base + torch.tensor(ratio).log().numpy(), Limits()).status
    assert "damaged" == risen("perplexity", base, base * float("nan"), Limits()).status


def test_a_sliding_window_is_named_and_seen_beyond_its_length(base, tmp_path):
    """A window of 64 changes nothing at 48 tokens; the config says so, and long windows settle it.

    This model of four blocks hardly uses what lies further back.
    """
    release = make(base, tmp_path / "release", unchanged, [PLACE])
    config = json.loads((release / "config.json").read_text())
    mistral = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 64}
    (release / "config.json").write_text(json.dumps(config | mistral))
    result = compared(release)
    assert ("kept", "changed") == (result.verdict, found(result)["config"].status)
    assert "sliding_window (not set) became 64" in result.reasons[0]
    assert "damaged" == compared(release, depths=(STATIC,)).verdict
    ratios = {name: check.figures.get("ratio") for name, check in found(result).items()}
    assert 1.0 == pytest.approx(ratios["perplexity"], abs=1e-4)
    assert 1e-4 < abs(ratios["perplexity on windows of 512 tokens"] - 1)


def test_a_value_that_changed_is_told_where_predictions_are_the_base_s(base, tmp_path):
    """The files alone say changed; with the predictions that pruning spoils, damaged."""
    release = make(base, tmp_path / "release", scaled(0.6), [PLACE])
    name = f"super weight {PLACE}"
    assert "changed" == found(compared(release, depths=(STATIC,)))[name].status
    pruned = make(base, tmp_path / "pruned", scaled(0.0), [PLACE])
    assert "damaged" == found(compared(pruned, depths=(STATIC, QUALITY)))[name].status


@pytest.mark.parametrize(
    ("entering", "mirrored"),
    [
        ((-1, -2, 1), True),
        ((-1.1, -1.9, 1), True),
        ((1, 2, -1), False),
        ((2, -1, 0), False),
        ((-1, 0, 0), False),
    ],
    ids=["mirrored", "and rounded", "the same", "unlike", "one of them"],
)
def test_a_channel_is_mirrored_where_all_of_it_has_the_other_sign(entering, mirrored):
    """Unlike numbers, or a few with the other sign, are no mirror image; nor is another channel."""
    one, other = jump((1, 2, -1)), jump(entering)
    assert mirrored is _mirrored(one, other)
    assert not _mirrored(one, replace(other, channel=1))
    assert not _mirrored(one, replace(other, entering=np.array([-1.0])))


def jump(entering):
    scores = np.ones(1, dtype=np.float32)
    return Jump(1, 0, ((None, 3),), scores, 5, 1.0, 1.0, 1.0, np.array(entering, dtype=np.float32))
