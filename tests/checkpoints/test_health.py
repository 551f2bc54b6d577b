"""Which tensors are damaged when all their numbers are zero."""

import numpy as np
import pytest

from superweight.checkpoints.tensors.health import condition, zero_means_emptied
from superweight.checkpoints.tensors.open import open_checkpoint

INT8 = np.zeros((4, 2), np.int8)


@pytest.mark.parametrize(
    ("name", "tensor", "expected"),
    [
        ("down_proj.weight", np.zeros((4, 2), np.float32), True),
        ("down_proj.bias", np.zeros(4, np.float32), True),
        ("down_proj.weight", INT8, True),
        ("down_proj.qweight", INT8.astype(np.int32), True),
        ("down_proj.weight_format", np.zeros((), np.uint8), False),
        ("down_proj.g_idx", np.zeros(4, np.int32), False),
        ("down_proj.qzeros", INT8.astype(np.int32), False),
        ("down_proj.weight_zero_point", INT8, False),
    ],
)
def test_zeros_are_damage_in_weights_alone(tmp_path, write_safetensors, name, tensor, expected):
    """A weight_format, GPTQ's g_idx of one group and zero points may be zero in sound releases."""
    write_safetensors(tmp_path / "model.safetensors", {name: tensor})
    checkpoint = open_checkpoint(tmp_path)
    info = checkpoint.info(name)
    stored = condition(checkpoint, name).zero if info.dtype != "I8" else True
    assert stored
    assert expected == zero_means_emptied(info)
