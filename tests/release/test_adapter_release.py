"""A LoRA adapter as the release of its base, from the command line."""

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from superweight.checkpoints.registry import resolve
from superweight.checkpoints.scalars import open_model
from superweight.checkpoints.tensors.locations import locate
from superweight.cli.main import main


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
