"""Which tensors are damaged when all their numbers are zero."""

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from superweight.checkpoints.tensors.health import FACTORS, Condition, condition, zero_means_emptied
from superweight.checkpoints.tensors.open import open_checkpoint
from tests.helpers.checkpoint_files import finish_gguf

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


def sound_blocks(kind, count=6):
    """Return blocks of a type whose bytes make finite numbers that are not all zero."""
    _, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return np.random.default_rng(0).integers(1, 60, (count, size)).astype(np.uint8)


def condition_of(path, kind, blocks):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("blk.0.ffn_down.weight", blocks, raw_dtype=GGMLQuantizationType[kind])
    finish_gguf(writer)
    return condition(open_checkpoint(path), "blk.0.ffn_down.weight")


@pytest.mark.parametrize(
    ("kind", "place"), [(kind, place) for kind, places in FACTORS.items() for place in places]
)
def test_a_factor_that_is_no_number_is_found(tmp_path, kind, place):
    """Of each type and factor, as gguf's own dequantize has it."""
    blocks = sound_blocks(kind)
    assert Condition(finite=True, zero=False) == condition_of(tmp_path / "sound.gguf", kind, blocks)
    assert np.isfinite(dequantize(blocks, GGMLQuantizationType[kind])).all()
    blocks[3, place : place + 2] = np.array([np.nan], np.float16).view(np.uint8)
    assert not condition_of(tmp_path / "spoilt.gguf", kind, blocks).finite
    with np.errstate(all="ignore"):
        assert not np.isfinite(dequantize(blocks, GGMLQuantizationType[kind])).all()


@pytest.mark.parametrize("kind", FACTORS)
def test_blocks_of_zeros_are_found(tmp_path, kind):
    """A tensor is emptied when every factor is zero, and not when one block is left."""
    blocks = np.zeros_like(sound_blocks(kind))
    assert condition_of(tmp_path / "zero.gguf", kind, blocks).zero
    blocks[-1] = sound_blocks(kind)[-1]
    assert not condition_of(tmp_path / "one.gguf", kind, blocks).zero
