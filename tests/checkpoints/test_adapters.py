"""LoRA adapters: what is read is W + scale x B A, and what is not read says what to do."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from superweight.checkpoints.adapters import CONFIG, WEIGHTS, is_adapter
from superweight.checkpoints.registry import resolve
from superweight.checkpoints.scalars import open_model, read
from superweight.checkpoints.tensors.locations import locations
from superweight.core.coordinates import Coordinate
from superweight.release.limits import Limits
from superweight.release.result import DAMAGED, KEPT
from superweight.release.static_checks import compare_static

HIDDEN, INTERMEDIATE, RANK = 8, 12, 3
STEM = "model.layers.0.mlp.down_proj"
PEFT = f"base_model.model.{STEM}"


@pytest.fixture
def weight():
    return torch.randn(HIDDEN, INTERMEDIATE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def base(tmp_path, weight):
    folder = tmp_path / "base"
    folder.mkdir()
    save_file({f"{STEM}.weight": weight}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"hidden_size": HIDDEN}))
    return folder


@pytest.fixture
def factors():
    source = torch.Generator().manual_seed(2)
    return (
        torch.randn(RANK, INTERMEDIATE, generator=source),
        torch.randn(HIDDEN, RANK, generator=source),
    )


@pytest.fixture
def adapter(tmp_path, base, factors):
    """Write an adapter of the base, with settings of its own and more tensors."""

    def make(more=None, **settings):
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        down, up = factors
        tensors = {f"{PEFT}.lora_A.weight": down, f"{PEFT}.lora_B.weight": up, **(more or {})}
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / WEIGHTS)
        said = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "base_model_name_or_path": str(base)}
        (folder / CONFIG).write_text(json.dumps(said | settings))
        return folder

    return make


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 2.0),
        ({"lora_alpha": 3}, 1.0),
        ({"use_rslora": True}, 6 / 3**0.5),
        ({"alpha_pattern": {"down_proj": 12}}, 4.0),
        ({"alpha_pattern": {"layers.1.mlp.down_proj": 12}}, 2.0),
    ],
)
def test_the_matrix_is_that_after_merging(adapter, weight, factors, settings, scale):
    """alpha / r, alpha / sqrt(r) for rsLoRA, with the alpha of a pattern, in every way of reading."""
    down, up = factors
    expected = (weight + scale * up @ down).numpy()
    checkpoint = open_model(resolve(str(adapter(**settings))))
    (location,) = locations(checkpoint)
    matrix = location.matrix(checkpoint)
    np.testing.assert_allclose(matrix, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(location.row(checkpoint, 5), expected[5], rtol=1e-5, atol=1e-5)
    assert float(expected[5, 7]) == pytest.approx(location.scalar(checkpoint, 5, 7).value, rel=1e-4)
    assert location.scalar(checkpoint, 5, 7).step is None
    assert "LoRA on F32" == location.tensor.dtype


def test_peft_itself_says_the_same(adapter, weight, factors):
    """Where peft is installed, its own merging is the measure."""
    peft = pytest.importorskip("peft")
    layer = torch.nn.Sequential(torch.nn.Linear(INTERMEDIATE, HIDDEN, bias=False))
    layer[0].weight.data = weight.clone()
    model = peft.get_peft_model(layer, peft.LoraConfig(r=RANK, lora_alpha=6, target_modules=["0"]))
    inner = model.base_model.model[0]
    inner.lora_A["default"].weight.data, inner.lora_B["default"].weight.data = factors
    expected = model.merge_and_unload()[0].weight.detach().numpy()
    checkpoint = open_model(resolve(str(adapter())))
    np.testing.assert_allclose(locations(checkpoint)[0].matrix(checkpoint), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_a_matrix_that_lies_inputs_first_is_merged_as_peft_does(tmp_path, dora):
    """GPT-2's, with and without DoRA; DoRA gives each row the length of its own."""
    peft = pytest.importorskip("peft")
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32, n_positions=8))
    model.save_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["mlp.c_proj"], use_dora=dora)
    tuned = peft.get_peft_model(model, settings)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data = torch.rand_like(parameter) + 0.5
    tuned.save_pretrained(tmp_path / "adapter")
    expected = tuned.merge_and_unload().transformer.h[0].mlp.c_proj.weight.detach().numpy().T
    checkpoint = open_model(resolve(f"{tmp_path / 'adapter'}@{tmp_path / 'base'}"))
    (location,) = locations(checkpoint)
    np.testing.assert_allclose(location.matrix(checkpoint), expected, rtol=1e-5, atol=1e-6)
    assert float(expected[3, 5]) == pytest.approx(location.scalar(checkpoint, 3, 5).value, rel=1e-5)
    assert ("DoRA on F32" if dora else "LoRA on F32") == location.tensor.dtype


def test_an_adapter_that_ruins_a_super_weight_is_damaged(adapter, base):
    """The static comparison is between the base and the base with the adapter merged."""
    place = Coordinate(0, 5, 7)

    def statuses(alpha):
        release = open_model(resolve(str(adapter(lora_alpha=alpha))))
        checks = compare_static(open_model(resolve(str(base))), release, [place], Limits())
        return {check.name: check.status for check in checks}

    assert {KEPT} == set(statuses(0.001).values())
    assert DAMAGED == statuses(60)[f"super weight {place}"]


def test_read_gives_the_merged_number(adapter, weight, factors):
    """`superweight read` takes an adapter's folder as it takes a model's."""
    down, up = factors
    found = read(resolve(str(adapter())), [Coordinate(0, 2, 3)])
    assert float((weight + 2 * up @ down)[2, 3]) == pytest.approx(found.readings[0].scalar.value, rel=1e-4)


@pytest.mark.parametrize(
    ("more", "settings", "message"),
    [
        ({}, {"use_dora": True}, "lora_magnitude_vector and use_dora of .* do not go together"),
        ({}, {"peft_type": "IA3"}, "is an adapter of the kind IA3, which is not read from files; merge it"),
        ({}, {"base_model_name_or_path": None}, "names no base; merge it into its base with peft"),
        ({f"{PEFT}.lora_B.weight": None}, {}, "has only one of lora_A and lora_B; it is damaged"),
        ({f"{PEFT}.lora_B.weight": torch.full((HIDDEN, RANK), torch.nan)}, {}, "holds NaN or infinity"),
        ({f"{PEFT}.weight": torch.ones(2)}, {}, "whole, which is not read from files"),
        (
            {f"{PEFT}x.lora_{x}.weight": torch.ones(2, 2) for x in "AB"},
            {},
            "down_projx, which .* has not; it belongs to another base",
        ),
    ],
)
def test_what_is_not_read_is_refused(adapter, refusal, more, settings, message):
    """One line says what it is and what to give."""
    assert re.search(message, refusal(open_model, resolve(str(adapter(more, **settings)))))


def test_a_model_with_an_adapter_beside_it_is_a_model(base):
    """config.json tells which of the two is meant."""
    (base / CONFIG).write_text("{}")
    assert not is_adapter(base)


def test_factors_of_another_shape_are_refused(adapter, refusal):
    """B A must be as large as the matrix."""
    folder = adapter({f"{PEFT}.lora_A.weight": torch.ones(RANK, 5)})
    assert "it belongs to another base" in refusal(locations, open_model(resolve(str(folder))))
