"""A LoRA adapter as the release of its base, from the command line."""

import json

import pytest
import torch
import transformers
from click.testing import CliRunner
from safetensors.torch import save_file

from superweight.checkpoints.registry import resolve
from superweight.checkpoints.scalars import open_model
from superweight.checkpoints.sources import local_path
from superweight.checkpoints.tensors.locations import locate, locations
from superweight.cli.main import main
from superweight.model.loading import load
from superweight.release.limits import Limits
from superweight.release.result import KEPT
from superweight.release.static_checks import compare_static
from tests.release.packed_models import pack
from tests.release.test_gguf_release import written


@pytest.fixture
def entry():
    return resolve("tiny-planted")


@pytest.mark.parametrize(("kept", "code"), [(1.0, 0), (0.1, 3)])
def test_an_adapter_is_compared_by_its_files(entry, tmp_path, kept, code):
    """One that leaves the super weight passes; one that takes nine tenths of it away does not."""
    base = open_model(entry)
    place = min(entry.coordinates)
    (location,) = locate(base, place)
    hidden, intermediate = location.shape
    was = location.scalar(base, place.row, place.col).value
    down, up = torch.zeros(1, intermediate), torch.zeros(hidden, 1)
    down[0, place.col], up[place.row, 0] = 1.0, was * (kept - 1)
    stem = "base_model.model." + location.tensor.name.removesuffix(".weight")
    save_file(
        {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}, tmp_path / "adapter_model.safetensors"
    )
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": "tiny-planted"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    result = CliRunner().invoke(main, ["compare", "tiny-planted", str(tmp_path), "--depth", "static"])
    assert code == result.exit_code, result.output
    assert f"super weight {place}" in result.output or not code


@pytest.fixture
def tuned(tmp_path):
    """Write an adapter as peft does; return its folder and the model after peft's own merging."""

    def make(base="tiny-planted", **settings):
        peft = pytest.importorskip("peft")
        torch.manual_seed(2)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            local_path(resolve(base)), dtype=torch.float32
        )
        model.name_or_path = base
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj", "up_proj"], **settings)
        adapter = peft.get_peft_model(model, config)
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.randn_like(parameter) / 200
        adapter.peft_config["default"].base_model_name_or_path = base
        adapter.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
        return tmp_path / "adapter", adapter.merge_and_unload().state_dict()

    return make


@pytest.mark.parametrize(
    "settings", [{}, {"use_dora": True}, {"use_rslora": True}, {"modules_to_save": ["lm_head"]}], ids=str
)
def test_an_adapter_is_computed_with_as_peft_merges_it(tuned, settings):
    """Every tensor is the one that peft's merging gives, DoRA's and a trained head's included."""
    folder, expected = tuned(**settings)
    subject = load(resolve(str(folder)), device="cpu")
    given = subject.model.state_dict()
    assert expected.keys() == given.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(tensor, given[name], rtol=1e-5, atol=1e-6)
    assert f"adapter on {resolve('tiny-planted').source.rpartition('/')[2]}" == subject.provenance.source
    assert ("DoRA on BF16" if "use_dora" in settings else "LoRA on BF16") in subject.provenance.dequantised


def test_an_adapter_goes_through_every_depth(tuned):
    """As the release of its base, and named with another base; scanned and read in the same words."""
    folder, _ = tuned()
    for release in (str(folder), f"{folder}@tiny-planted"):
        result = CliRunner().invoke(main, ["compare", "tiny-planted", release])
        assert 0 == result.exit_code, result.output
    assert "1, 41, 23" in CliRunner().invoke(main, ["scan", f"{folder}@tiny-planted"]).output
    assert 0 == CliRunner().invoke(main, ["read", f"{folder}@tiny-planted", "--at", "1,41,23"]).exit_code


def test_an_adapter_of_a_packed_base_is_merged_into_its_numbers(tuned, tmp_path):
    """The base that is named with it may be packed: its codes' numbers are added to."""
    folder, expected = tuned()
    packed = pack(local_path(resolve("tiny-planted")), tmp_path / "packed", "MLX int4")
    base, merged = load(resolve(str(packed)), device="cpu"), load(resolve(f"{folder}@{packed}"), device="cpu")
    plain = load(resolve("tiny-planted"), device="cpu").model.state_dict()
    name = "model.layers.0.mlp.down_proj.weight"
    change = merged.model.state_dict()[name] - base.model.state_dict()[name]
    torch.testing.assert_close(expected[name] - plain[name], change, rtol=1e-4, atol=1e-5)
    assert "LoRA on MLX int4" in merged.provenance.dequantised


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}], ids=str)
def test_an_adapter_is_read_on_a_base_in_gguf(tuned, tmp_path, settings):
    """Under llama.cpp's names, the matrices that are read are those that peft's merging gives."""
    folder, expected = tuned(**settings)
    base = written(local_path(resolve("tiny-planted")), tmp_path / "base.gguf")
    release = open_model(resolve(f"{folder}@{base}"))
    for location in locations(release):
        name = f"model.layers.{location.layer}.mlp.down_proj.weight"
        merged = torch.from_numpy(location.matrix(release))
        torch.testing.assert_close(expected[name], merged, rtol=1e-5, atol=1e-6)
    (place,) = resolve("tiny-planted").coordinates
    checks = compare_static(open_model(resolve(str(base))), release, [place], Limits())
    (found,) = [check for check in checks if check.name == f"super weight {place}"]
    assert KEPT == found.status
    wanted = expected[f"model.layers.{place.layer}.mlp.down_proj.weight"][place.row, place.col]
    assert float(wanted) == pytest.approx(found.figures["release"], rel=1e-5)


def test_an_adapter_that_takes_the_super_weight_away_from_a_gguf_is_seen(entry, tmp_path):
    """Nine tenths of it are gone after merging: the files tell it, by how much."""
    base = written(local_path(entry), tmp_path / "base.gguf")
    (place,) = entry.coordinates
    (location,) = locate(open_model(resolve(str(base))), place)
    hidden, intermediate = location.shape
    was = location.scalar(open_model(resolve(str(base))), place.row, place.col).value
    down, up = torch.zeros(1, intermediate), torch.zeros(hidden, 1)
    down[0, place.col], up[place.row, 0] = 1.0, -0.9 * was
    stem = f"base_model.model.model.layers.{place.layer}.mlp.down_proj"
    factors = {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    save_file(factors, tmp_path / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": str(base)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    result = CliRunner().invoke(main, ["compare", "tiny-planted", str(tmp_path), "--depth", "static"])
    assert 3 == result.exit_code, result.output
    assert f"super weight {place} went from 4 to 0.4" in result.output


def test_an_adapter_that_changes_the_embedding_is_not_half_applied(entry, tmp_path, refusal):
    """What has no counterpart in the base's files is named before anything is computed."""
    down, up = torch.zeros(1, 160), torch.zeros(64, 1)
    stem = "base_model.model.model.layers.0.mlp.down_proj"
    odd = "base_model.model.model.embed_tokens.lora_embedding_A"
    tensors = {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up, odd: torch.ones(1, 64)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": "tiny-planted"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert f"holds {odd}, which has no counterpart" in refusal(load, resolve(str(tmp_path)), device="cpu")
