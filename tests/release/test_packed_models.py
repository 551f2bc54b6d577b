"""Releases in packed forms at every depth, on a machine that has no kernel for them."""

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import local_path
from superweight.cli.main import main
from superweight.detection.scan import scan
from superweight.measurement.corpus import default_prompt
from superweight.model import dequantised
from superweight.model.loading import load
from tests.release.packed_models import FORMS, is_linear, pack

PLACE = (1, 41, 23)
# How far a number may be moved by rounding, as a part of the largest of its group.
WITHIN = {"I8": 1 / 200, "F8_E4M3": 1 / 16, "NVFP4": 0.2, "bitsandbytes nf4": 0.16}

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def source():
    return local_path(resolve("tiny-planted"))


@pytest.fixture
def alone(monkeypatch):
    """Let nothing be installed that computes with packed weights."""
    monkeypatch.setattr(dequantised, "_installed", lambda package: False)


# Every form has its numbers tried in every run; three go through all depths, the others in long runs.
SOME = [pytest.param(name, marks=[] if place < 3 else [pytest.mark.slow]) for place, name in enumerate(FORMS)]


@pytest.mark.parametrize("name", FORMS)
def test_the_model_computes_with_the_numbers_of_its_codes(name, source, tmp_path, alone):
    """Every linear map is plain, in float32, as wide as the config says, and near what was rounded."""
    subject = load(resolve(str(pack(source, tmp_path / "packed", name))), device="cpu")
    assert name == subject.provenance.dequantised
    assert torch.float32 == subject.model.dtype
    assert not hasattr(subject.model.config, "quantization_config")
    given = subject.model.state_dict()
    for tensor_name, was in load_file(source / "model.safetensors").items():
        if not is_linear(tensor_name):
            assert torch.equal(was.float(), given[tensor_name])
            continue
        groups = was.float().reshape(len(was), -1, 32)
        apart = (given[tensor_name].reshape(groups.shape) - groups).abs()
        span = groups.amax(-1).clamp_min(0) - groups.amin(-1).clamp_max(0)
        span = was.float().abs().amax(-1)[:, None].expand_as(span) if name == "I8" else span
        assert float((apart.amax(-1) / span.clamp_min(1e-6)).max()) < WITHIN.get(name, 1 / 25), tensor_name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SOME)
def test_a_sound_release_is_kept_at_every_depth(name, device, source, tmp_path, alone):
    """From the command line, all depths required."""
    release = pack(source, tmp_path / "packed", name)
    result = CliRunner().invoke(main, ["compare", "tiny-planted", str(release), "--device", device])
    assert 0 == result.exit_code, result.output


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FORMS)
def test_a_ruined_release_is_damaged_at_the_depth_of_activations(name, device, source, tmp_path, alone):
    """The super activation is gone, or is another."""
    release = pack(source, tmp_path / "packed", name, PLACE)
    asked = ["--depth", "activations", "--device", device]
    result = CliRunner().invoke(main, ["compare", "tiny-planted", str(release), *asked])
    assert 1 == result.exit_code, result.output
    assert "super activation" in result.output


@pytest.mark.parametrize("name", SOME)
def test_a_packed_base_is_compared_at_every_depth(name, source, tmp_path, alone):
    """The base's own head-room, activations and predictions are those of its codes."""
    base = pack(source, tmp_path / "packed", name)
    result = CliRunner().invoke(main, ["compare", str(base), "tiny-planted"])
    assert 0 == result.exit_code, result.output


@pytest.mark.parametrize(("dtype", "largest"), [("float16", 65504.0), ("bfloat16", 3.3895313892515355e38)])
def test_head_room_is_that_of_the_dtype_in_the_config(source, tmp_path, alone, dtype, largest):
    """The weights are computed with in float32 here, and in what config.json says where they are served."""
    folder = pack(source, tmp_path / "packed", "GPTQ int4")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": dtype}))
    written = tmp_path / "out.json"
    asked = ["compare", "tiny-planted", str(folder), "--depth", "activations", "--json", str(written)]
    CliRunner().invoke(main, asked)
    checks = {check["check"]: check for check in json.loads(written.read_text())["checks"]}
    magnitude = scan(load(resolve(str(folder)), device="cpu"), default_prompt()).largest
    assert magnitude / largest == pytest.approx(checks["head-room"]["figures"]["share"])


def test_a_packed_release_is_scanned(source, tmp_path, alone):
    """The one super weight is found, and what it says of itself is written in plain words."""
    release = pack(source, tmp_path / "packed", "GPTQ int4")
    result = CliRunner().invoke(main, ["scan", str(release)])
    assert 0 == result.exit_code, result.output
    assert "1, 41, 23" in result.output


def unpacked(module):
    """Return the matrix of a linear map as its own library unpacks it."""
    from bitsandbytes import functional

    state = getattr(module.weight, "quant_state", None)
    return module.weight if state is None else functional.dequantize_4bit(module.weight.data, state)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["compressed-tensors int4", "bitsandbytes nf4"])
def test_the_forms_own_library_unpacks_the_same(name, source, tmp_path, monkeypatch):
    """Where a library loads a form on a CPU, every linear map of its model is ours."""
    folder = pack(source, tmp_path / "packed", name)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    theirs = load(resolve(str(folder)), device="cpu")
    monkeypatch.setattr(dequantised, "_installed", lambda package: False)
    ours = load(resolve(str(folder)), device="cpu")
    assert (None, name) == (theirs.provenance.dequantised, ours.provenance.dequantised)
    modules = dict(theirs.model.named_modules())
    linear = {n: m for n, m in ours.model.named_modules() if n.endswith("_proj")}
    assert linear
    for module_name, module in linear.items():
        torch.testing.assert_close(
            unpacked(modules[module_name]).float(), module.weight, rtol=1e-6, atol=1e-8
        )
