"""Quantised safetensors: what can be read is what the model computes with, the rest is refused by name."""

import json

import numpy as np
import pytest
import torch

from superweight.checkpoints.tensors.locations import locate
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.core.coordinates import Coordinate

STEM = "model.layers.0.mlp.down_proj"
NAME = f"{STEM}.weight"


@pytest.fixture
def codes():
    return np.random.default_rng(0).integers(-127, 128, size=(6, 8), dtype=np.int8)


@pytest.fixture
def opened(tmp_path, write_safetensors):
    """Open a checkpoint of given tensors, and a config."""

    def make(tensors, config=None):
        write_safetensors(tmp_path / "model.safetensors", tensors)
        (tmp_path / "config.json").write_text(json.dumps(config or {}))
        return open_checkpoint(tmp_path)

    return make


def read_every_way(checkpoint, shape):
    """The matrix read whole, by rows and by scalars; all three are the same."""
    matrix = checkpoint.read(NAME)
    rows = np.stack([checkpoint.row(NAME, row) for row in range(shape[0])])
    scalars = [
        [checkpoint.scalar(NAME, row, col).value for col in range(shape[1])] for row in range(shape[0])
    ]
    assert matrix.tolist() == rows.tolist() == scalars
    return matrix


@pytest.mark.parametrize("shape", [(), (1,), (6,), (6, 1), (1, 8), (6, 8)])
def test_int8_is_read_with_its_scale(opened, codes, shape):
    """One scale a tensor, a row, a column or a number; the step is the scale."""
    scale = np.random.default_rng(1).uniform(0.01, 0.02, size=shape).astype(np.float32)
    checkpoint = opened({NAME: codes, f"{NAME}_scale": scale})
    spread = np.broadcast_to(scale[:, None] if shape == (6,) else scale, codes.shape)
    assert (codes * spread).tolist() == read_every_way(checkpoint, codes.shape).tolist()
    assert float(spread[3, 5]) == checkpoint.scalar(NAME, 3, 5).step


def test_a_zero_point_is_taken_off_first(opened, codes):
    """Asymmetric int8 is (stored - zero) x scale."""
    scale, zero = np.full((6, 1), 0.5, np.float32), np.arange(6, dtype=np.int8)[:, None]
    checkpoint = opened({NAME: codes, f"{NAME}_scale": scale, f"{NAME}_zero_point": zero})
    expected = (codes.astype(np.float32) - zero) * 0.5
    assert expected.tolist() == read_every_way(checkpoint, codes.shape).tolist()


def test_llm_int8_is_read_by_the_largest_of_each_row(opened, codes):
    """bitsandbytes' SCB is what code 127 stands for."""
    largest = np.arange(1, 7, dtype=np.float32)
    checkpoint = opened({NAME: codes, f"{STEM}.SCB": largest})
    assert codes * largest[:, None] / 127 == pytest.approx(read_every_way(checkpoint, codes.shape), rel=1e-6)
    assert 3 / 127 == pytest.approx(checkpoint.scalar(NAME, 2, 0).step)


def test_float8_is_read_with_a_scale_for_each_block(opened):
    """DeepSeek's weight_scale_inv multiplies blocks of weight_block_size, the last ones cut short."""
    one = ("F8_E4M3", (6, 8), bytes([0x38] * 48))  # 1.0 everywhere
    scale = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    config = {"quantization_config": {"weight_block_size": [4, 3]}}
    checkpoint = opened({NAME: one, f"{NAME}_scale_inv": scale}, config)
    expected = scale.repeat(4, 0)[:6].repeat(3, 1)[:, :8]
    assert expected.tolist() == read_every_way(checkpoint, (6, 8)).tolist()
    assert 6.0 / 8 == checkpoint.scalar(NAME, 5, 7).step


def test_float8_without_a_scale_is_plain(opened):
    """A checkpoint that was merely cast has no scale and needs none."""
    checkpoint = opened({NAME: ("F8_E5M2", (1, 2), bytes([0x3C, 0xC0]))})
    assert [[1.0, -2.0]] == checkpoint.read(NAME).tolist()
    assert 0.25 == checkpoint.scalar(NAME, 0, 0).step


def test_a_plain_tensor_of_integers_is_read_as_it_is(opened):
    """Only weights need a scale; an index of positions is what it is, in steps of one."""
    checkpoint = opened({"positions": np.arange(4, dtype=np.int32)})
    assert [0, 1, 2, 3] == checkpoint.read("positions").tolist()


def test_refuses_int8_without_a_scale(opened, codes, refusal):
    """What a code means is unknown then."""
    checkpoint = opened({NAME: codes})
    assert f"{NAME} holds I8 without a scale" in refusal(checkpoint.scalar, NAME, 0, 0)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (6, 8, 1)])
def test_refuses_a_scale_that_does_not_fit(opened, codes, refusal, shape):
    """Shapes that do not go together are both named."""
    checkpoint = opened({NAME: codes, f"{NAME}_scale": np.ones(shape, np.float32)})
    assert f"of shape {list(shape)} is no scale of {NAME} of shape [6, 8]" in refusal(
        checkpoint.scalar, NAME, 0, 0
    )


PACKED = np.ones((4, 2), np.int32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qweight", "is packed as GPTQ or AWQ, but its scales are not beside it"),
        ("W_q", "is packed as HQQ, but its scales are not beside it"),
        ("_weight_qdata", "is packed as torchao, but its scales are not beside it"),
        ("trellis", "is packed as EXL3, which is not read; give the checkpoint it was made from"),
        ("q_weight", "is packed as EXL2, which is not read; give the checkpoint it was made from"),
    ],
)
def test_refuses_packed_forms_by_name(opened, refusal, name, message):
    """A packed projection is recognised, not read wrongly, and the line says what it is."""
    assert message in refusal(locate, opened({f"{STEM}.{name}": PACKED}), Coordinate(0, 1, 1))


BYTES = np.random.default_rng(3).integers(0, 0x7E, size=(576, 64), dtype=np.uint8)
EXPONENTS = np.random.default_rng(4).integers(110, 130, size=(5, 1), dtype=np.uint8)


def by_blocks(factors, length, shape):
    """Spread factors over blocks of ``length`` rows, in torch."""
    spread = torch.from_numpy(factors).repeat_interleave(length, 0)[: shape[0]]
    codes = torch.from_numpy(BYTES).view(torch.float8_e4m3fn).float()
    return (codes * spread).numpy()


@pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv", "scale"])
@pytest.mark.parametrize("dtype", ["U8", "F8_E8M0"])
def test_scales_that_are_exponents_are_powers_of_two(opened, name, dtype):
    """2^(u8 - 127), whatever name and type the scale has, also in a last block cut short."""
    checkpoint = opened(
        {
            NAME: ("F8_E4M3", BYTES.shape, BYTES.tobytes()),
            f"{STEM}.{name}": (dtype, (5, 1), EXPONENTS.tobytes()),
        },
        {"quantization_config": {"weight_block_size": [128, 128], "scale_fmt": "ue8m0"}},
    )
    powers = torch.from_numpy(EXPONENTS).view(torch.float8_e8m0fnu).float().numpy()
    expected = by_blocks(powers, 128, BYTES.shape)
    assert np.array_equal(expected, checkpoint.read(NAME))
    assert float(expected[575, 63]) == checkpoint.scalar(NAME, 575, 63).value


@pytest.mark.parametrize(
    "weights",
    [
        {"strategy": "block", "block_structure": [64, 80]},
        {"strategy": "group", "group_size": 80},
    ],
)
def test_blocks_are_as_long_as_the_config_groups_say(opened, weights):
    """The group of compressed-tensors that names a layer says its blocks; another group does not."""
    source = np.random.default_rng(5)
    codes = source.integers(-127, 128, size=(128, 400), dtype=np.int8)
    rows = 2 if "block_structure" in weights else 128
    scale = source.uniform(0.01, 0.02, size=(rows, 5)).astype(np.float32)
    config = {
        "quantization_config": {
            "config_groups": {
                "group_0": {
                    "targets": ["re:.*q_proj"],
                    "weights": {"block_structure": [64, 96], "group_size": 96},
                },
                "group_1": {"targets": ["Linear"], "weights": weights},
            }
        }
    }
    checkpoint = opened({NAME: codes, f"{NAME}_scale": scale}, config)
    spread = scale.repeat(128 // rows, 0).repeat(80, 1)
    assert np.array_equal(codes * spread, checkpoint.read(NAME))
    assert float(spread[100, 81]) == checkpoint.scalar(NAME, 100, 81).step


def test_model_optimizer_float8_is_multiplied_by_the_scale_of_the_tensor(opened):
    """ModelOpt keeps one scale a matrix, and the input's beside it, which is none of the weight's."""
    scale = np.array(0.25, np.float32)
    checkpoint = opened(
        {
            NAME: ("F8_E4M3", BYTES.shape, BYTES.tobytes()),
            f"{NAME}_scale": scale,
            f"{STEM}.input_scale": np.array(7, np.float32),
        }
    )
    assert np.array_equal(by_blocks(scale.reshape(1, 1), 576, BYTES.shape), checkpoint.read(NAME))
