"""A model that is not what its files say is refused, in one line, before anything is measured."""

from __future__ import annotations

import pytest
import torch

from superweight.checkpoints.registry import resolve
from superweight.model.loading import load
from tests.helpers.checkpoint_files import configure, copy_checkpoint, rewrite


@pytest.fixture
def copy(tmp_path):
    copy_checkpoint("tiny-planted", tmp_path / "copy")
    return tmp_path / "copy"


UP_PROJ = "model.layers.2.mlp.up_proj.weight"


def test_a_missing_tensor_is_not_filled_with_random_numbers(copy, refusal):
    """transformers would warn and go on; here the tensor is named."""
    rewrite(copy, lambda tensors: tensors.pop(UP_PROJ))
    assert f"tensor {UP_PROJ} is missing, and would be filled with random numbers" in refusal(
        load, resolve(str(copy)), device="cpu"
    )


def test_blocks_that_the_config_forgets_are_not_left_out(copy, refusal):
    """A config of three blocks over files of four is another checkpoint's."""
    configure(copy, num_hidden_layers=3)
    line = refusal(load, resolve(str(copy)), device="cpu")
    assert "tensor model.layers.3." in line
    assert "would be left out, because config.json has 3 blocks" in line


def test_a_tensor_of_another_shape_is_named(copy, refusal):
    """The config and the file disagree, and neither is believed."""
    rewrite(copy, lambda tensors: tensors.update({UP_PROJ: tensors[UP_PROJ][:-1].clone()}))
    assert f"tensor {UP_PROJ} has shape" in refusal(load, resolve(str(copy)), device="cpu")


def test_integers_without_a_meaning_are_no_weights(copy, refusal):
    """Cast to floats they would be a model that nobody published."""
    rewrite(copy, lambda tensors: tensors.update({UP_PROJ: tensors[UP_PROJ].to(torch.int8)}))
    line = refusal(load, resolve(str(copy)), device="cpu")
    assert f"{UP_PROJ} holds I8, but config.json has no quantization_config" in line


@pytest.mark.parametrize("share", [0.0, 0.05, 0.25, 0.5, 0.75, 0.95])
def test_a_truncated_file_is_refused(copy, refusal, share):
    """Wherever it ends, the header or the data does not add up."""
    file = copy / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    assert "model.safetensors" in refusal(load, resolve(str(copy)), device="cpu")


def test_a_name_that_no_file_system_takes_is_bad_input(refusal):
    """Ten thousand characters are refused like any other name that leads nowhere."""
    assert "cannot look for the model" in refusal(load, resolve("x" * 10_000), device="cpu")
