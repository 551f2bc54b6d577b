"""Mixtures of experts in packed forms, as base and as release, at every depth."""

import json
import re
import shutil

import pytest
import torch
import transformers
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import local_path
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.cli.main import main
from superweight.core.coordinates import Coordinate
from superweight.model import dequantised
from superweight.model.loading import load
from superweight.release.limits import Limits
from superweight.release.result import KEPT
from superweight.release.static_checks import compare_static
from tests.release.packed_floats import as_packed_mxfp4
from tests.release.packed_releases import as_gptq, as_mlx

SHAPE = {
    "vocab_size": 257,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setattr(dequantised, "_installed", lambda package: False)


@pytest.fixture
def model(tmp_path):
    """Write a small random model of a class, with a tokenizer; return it and its folder."""

    def make(config):
        torch.manual_seed(3)
        made = transformers.AutoModelForCausalLM.from_config(config).eval()
        folder = tmp_path / "model"
        made.save_pretrained(folder)
        planted = local_path(resolve("tiny-planted"))
        tokenizer = transformers.AutoTokenizer.from_pretrained(planted)
        tokenizer.save_pretrained(folder)
        return made, folder

    return make


def rewrite(folder, change, **config):
    """Replace the tensors of a folder by what ``change`` makes of each by name."""
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        tensors |= change(name, tensor)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | config))


def mxfp4(weight):
    """Return blocks, scales and the numbers they stand for, of (experts, outputs, inputs)."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    source = torch.Generator().manual_seed(7)
    blocks = torch.randint(256, (*weight.shape[:2], weight.shape[2] // 32, 16), generator=source)
    scales = torch.randint(118, 122, blocks.shape[:3], generator=source)
    blocks, scales = blocks.to(torch.uint8), scales.to(torch.uint8)
    return blocks, scales, convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)


def test_gpt_oss_is_loaded_with_the_numbers_of_its_blocks(model, alone):
    """Inputs before outputs, as its own module wants them; biases and routers stay."""
    _, folder = model(transformers.GptOssConfig(**SHAPE, layer_types=["full_attention"] * 2))
    expected = {}

    def change(name, tensor):
        if not name.endswith(("gate_up_proj", "down_proj")):
            return {name: tensor}
        blocks, scales, expected[name] = mxfp4(tensor.transpose(1, 2))
        return {f"{name}_blocks": blocks, f"{name}_scales": scales}

    rewrite(folder, change, quantization_config={"quant_method": "mxfp4"})
    subject = load(resolve(str(folder)), device="cpu")
    assert "MXFP4" == subject.provenance.dequantised
    given = subject.model.state_dict()
    assert 4 == len(expected)
    for name, numbers in expected.items():
        assert torch.equal(numbers, given[name])


@pytest.mark.parametrize("form", [as_gptq, as_mlx])
def test_experts_one_by_one_are_stacked(model, alone, form):
    """Packed expert by expert, and computed with as the one tensor that transformers makes of them."""
    made, folder = model(transformers.Qwen3MoeConfig(**SHAPE))
    wanted = made.state_dict()["model.layers.1.mlp.experts.down_proj"]

    def change(name, tensor):
        if not name.endswith("_proj.weight"):
            return {name: tensor}
        stem = name.removesuffix("weight")
        return {stem + end: part for end, part in form(tensor, torch.clone).items()}

    settings = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}}
    mlx = {"quantization": {"bits": 4, "group_size": 32}}
    rewrite(folder, change, **(mlx if form is as_mlx else settings))
    subject = load(resolve(str(folder)), device="cpu")
    given = subject.model.state_dict()["model.layers.1.mlp.experts.down_proj"]
    span = wanted.reshape(4, 64, -1, 32)
    step = (span.amax(-1) - span.amin(-1)) / 15
    assert bool(((given - wanted).reshape(span.shape).abs().amax(-1) <= 0.51 * step).all())


def test_experts_of_mlx_in_one_tensor_are_read(model, alone):
    """mlx-lm calls them switch_mlp."""
    made, folder = model(transformers.Qwen3MoeConfig(**SHAPE))
    wanted = made.state_dict()["model.layers.1.mlp.experts.down_proj"]
    stacks = {}

    def change(name, tensor):
        if not name.endswith("_proj.weight"):
            return {name: tensor}
        stem = name.removesuffix("weight")
        packed = as_mlx(tensor, torch.clone)
        if ".experts." not in name:
            return {stem + end: part for end, part in packed.items()}
        before, _, after = stem.partition(".experts.")
        for end, part in packed.items():
            stacks.setdefault(f"{before}.switch_mlp.{after.partition('.')[2]}{end}", []).append(part)
        return {}

    rewrite(folder, change, quantization={"bits": 4, "group_size": 32})
    tensors = load_file(folder / "model.safetensors")
    tensors |= {name: torch.stack(parts) for name, parts in stacks.items()}
    save_file(tensors, folder / "model.safetensors")
    subject = load(resolve(str(folder)), device="cpu")
    given = subject.model.state_dict()["model.layers.1.mlp.experts.down_proj"]
    span = wanted.reshape(4, 64, -1, 32)
    step = (span.amax(-1) - span.amin(-1)) / 15
    assert bool(((given - wanted).reshape(span.shape).abs().amax(-1) <= 0.51 * step).all())
    # The static depth finds the same experts, whichever side is the stack.
    base = folder.parent / "base"
    made.save_pretrained(base)
    for pair in ((base, folder), (folder, base)):
        checks = compare_static(*map(open_checkpoint, pair), [Coordinate(1, 3, 5, 2)], Limits(value_error=9))
        assert {KEPT} == {check.status for check in checks if check.name in ("structure", "numbers")}, checks
        assert any(check.name.startswith("super weight") for check in checks)


PLANTED = (1, 5, 40)


@pytest.fixture
def gpt_oss(model):
    """Write a gpt-oss with one super weight in every expert of a block; return its folder, and a packer.

    Its numbers are those that the blocks stand for, by transformers' own conversion.
    """
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    _, base = model(transformers.GptOssConfig(**SHAPE | {"num_hidden_layers": 6}))
    layer, row, col = PLANTED
    planted = f"model.layers.{layer}.mlp.experts.down_proj"
    blocks = {}

    def plain(name, tensor):
        if not name.endswith(("gate_up_proj", "down_proj")):
            return {name: tensor}
        stack = tensor.transpose(1, 2).clone()
        if name == planted:
            stack[:, row, col] = 1500.0
        parts = [as_packed_mxfp4(weight, torch.clone) for weight in stack]
        packed, scales = (torch.stack([item[end] for item in parts]) for end in parts[0])
        blocks[name] = packed.reshape(*packed.shape[:2], -1, 16), scales
        return {name: convert_moe_packed_tensors(*blocks[name], dtype=torch.float32)}

    rewrite(base, plain)

    def pack(release, *, lost=0):
        shutil.copytree(base, release)

        def change(name, tensor):
            if name not in blocks:
                return {name: tensor}
            packed, scales = blocks[name][0], blocks[name][1].clone()
            if name == planted:
                scales[:, row, col // 32] -= lost
            return {f"{name}_blocks": packed, f"{name}_scales": scales}

        rewrite(release, change, quantization_config={"quant_method": "mxfp4"})
        return release

    return base, pack


@pytest.mark.parametrize(
    ("depth", "device"),
    [("static", "cpu"), ("activations", "cpu"), pytest.param("activations", "cuda", marks=pytest.mark.gpu)],
)
def test_a_gpt_oss_in_mxfp4_is_told_from_a_ruined_one(gpt_oss, alone, tmp_path, depth, device):
    """Blocks and scales against the plain model, by the files and by a forward pass."""
    base, pack = gpt_oss

    def compared(release):
        asked = ["--depth", depth, "--device", device]
        return CliRunner().invoke(main, ["compare", str(base), str(release), *asked])

    sound = compared(pack(tmp_path / "sound"))
    assert 0 == sound.exit_code, sound.output
    ruined = compared(pack(tmp_path / "ruined", lost=8))
    assert (3 if depth == "static" else 1) == ruined.exit_code, ruined.output
    assert ("of its block's steps" if depth == "static" else "super activation") in ruined.output


def test_a_gpt_oss_in_mxfp4_is_scanned(gpt_oss, alone, tmp_path):
    """The planted scalar is found in the experts that the first token takes."""
    _, pack = gpt_oss
    result = CliRunner().invoke(main, ["scan", str(pack(tmp_path / "packed"))])
    assert 0 == result.exit_code, result.output
    assert re.search(r"1, \d, 5, 40", result.output), result.output
