"""The largest number of a pass, and what the dtype can hold that a release is published in."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from superweight.checkpoints.registry import resolve
from superweight.detection.scan import scan
from superweight.measurement.corpus import default_prompt
from superweight.model.loading import load
from superweight.release.head_room import largest_number, largest_of_dtype
from tests.helpers.checkpoint_files import copy_checkpoint


def test_the_largest_number_is_that_of_the_whole_pass(planted):
    """No module but the ones without parts is asked, and none of them holds a larger one."""
    found = largest_number(planted)
    seen = []
    modules = dict(planted.model.base_model.named_modules())
    assert not list(modules[found.module].children())
    hooks = [
        module.register_forward_hook(lambda _, given, output: seen.extend([*given, output]))
        for module in modules.values()
        if not list(module.children())
    ]
    with torch.no_grad():
        planted.model.base_model(torch.tensor([planted.encode(default_prompt())]), use_cache=False)
    for hook in hooks:
        hook.remove()
    tensors = [item for item in seen if isinstance(item, torch.Tensor) and item.is_floating_point()]
    assert max(float(item.abs().max()) for item in tensors) == pytest.approx(found.magnitude)
    assert found.magnitude >= abs(scan(planted, default_prompt()).super_activations[0].magnitude) * 0.9


@pytest.mark.parametrize(
    ("stored", "told", "dtype"),
    [
        (torch.float16, {}, torch.float16),
        (torch.bfloat16, {"dtype": "float16"}, torch.bfloat16),
        (torch.float64, {"dtype": "float16"}, torch.float16),
        (torch.float64, {"torch_dtype": "bfloat16"}, torch.bfloat16),
        (torch.float64, {"text_config": {"dtype": "float16"}}, torch.float16),
        (torch.float64, {"dtype": "something"}, torch.float32),
    ],
)
def test_the_dtype_is_that_of_the_matrices_or_what_the_config_says(tmp_path, stored, told, dtype):
    """Of what is stored otherwise than it is computed in, config.json tells; else it is what was loaded."""
    subject = load(resolve(str(copy_checkpoint("tiny-planted", tmp_path / "model"))))
    file = tmp_path / "model" / "model.safetensors"
    tensors = {
        name: tensor.to(stored) if "down_proj" in name else tensor for name, tensor in load_file(file).items()
    }
    save_file(tensors, file, {"format": "pt"})
    config = tmp_path / "model" / "config.json"
    plain = {key: value for key, value in json.loads(config.read_text()).items() if "dtype" not in key}
    config.write_text(json.dumps(plain | told))
    assert torch.finfo(dtype).max == largest_of_dtype(subject)


def test_the_first_matrix_tells_the_dtype(tmp_path):
    """A last one that was left in float32 is none that the release computes in."""
    subject = load(resolve(str(copy_checkpoint("tiny-planted", tmp_path / "model"))))
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    last = max(name for name in tensors if "down_proj" in name)
    tensors = {name: item if name == last else item.half() for name, item in tensors.items()}
    save_file(tensors, file, {"format": "pt"})
    assert torch.finfo(torch.float16).max == largest_of_dtype(subject)
