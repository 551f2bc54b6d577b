"""Whole models in floats of 8 and 4 bits, sound and with one super weight's group destroyed."""

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import local_path
from superweight.cli.main import main
from superweight.model import dequantised
from superweight.model.loading import load
from tests.release.packed_floats import FLOATS
from tests.release.packed_models import is_linear, pack

PLACE = (1, 41, 23)


@pytest.fixture(scope="module")
def source():
    return local_path(resolve("tiny-planted"))


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Let nothing be installed that computes with packed weights."""
    monkeypatch.setattr(dequantised, "_installed", lambda package: False)


def compared(release, depth):
    return CliRunner().invoke(main, ["compare", "tiny-planted", str(release), "--depth", depth])


@pytest.mark.parametrize("depth", ["static", "activations"])
@pytest.mark.parametrize("name", FLOATS)
def test_a_sound_release_is_kept(name, depth, source, tmp_path):
    """By its files, and by what it computes with on a CPU."""
    result = compared(pack(source, tmp_path / "packed", name), depth)
    assert 0 == result.exit_code, result.output


@pytest.mark.parametrize("depth", ["static", "activations"])
@pytest.mark.parametrize("name", FLOATS)
def test_a_ruined_release_is_not_kept(name, depth, source, tmp_path):
    """The scalar a hundredth of itself is not kept by the files, and damage by the forward pass."""
    result = compared(pack(source, tmp_path / "packed", name, PLACE), depth)
    assert (3 if depth == "static" else 1) == result.exit_code, result.output
    assert ("super weight [1, 41, 23] went" if depth == "static" else "super activation") in result.output


@pytest.mark.parametrize("name", FLOATS)
def test_the_model_computes_with_the_numbers_of_its_codes(name, source, tmp_path):
    """Every linear map lies near what was rounded: within half a step of its group's largest number."""
    subject = load(resolve(str(pack(source, tmp_path / "packed", name))), device="cpu")
    assert subject.provenance.dequantised is not None
    given = subject.model.state_dict()
    for tensor_name, was in load_file(source / "model.safetensors").items():
        if not is_linear(tensor_name):
            continue
        groups = was.float().reshape(len(was), -1, 32)
        apart = (given[tensor_name].reshape(groups.shape) - groups).abs().amax(-1)
        span = was.float().abs().max() if name == "ModelOpt FP8" else groups.abs().amax(-1)
        assert float((apart / torch.as_tensor(span).clamp_min(1e-6)).max()) < 0.35, tensor_name


@pytest.mark.parametrize("name", ["compressed-tensors NVFP4", "torchao MXFP8"])
def test_it_is_scanned(name, source, tmp_path):
    """The one super weight is found from the command line."""
    result = CliRunner().invoke(main, ["scan", str(pack(source, tmp_path / "packed", name))])
    assert 0 == result.exit_code, result.output
    assert "1, 41, 23" in result.output
