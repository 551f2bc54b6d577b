"""MXFP4 of gpt-oss and MLX: what is read is what transformers and mlx make of the same tensors."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superweight.core.errors import BadInput

few = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))


def experts(seed, hidden=16, groups=3, count=2):
    source = torch.Generator().manual_seed(seed)
    blocks = torch.randint(256, (count, hidden, groups, 16), dtype=torch.uint8, generator=source)
    scales = torch.randint(110, 130, (count, hidden, groups), dtype=torch.uint8, generator=source)
    return {"_blocks": blocks, "_scales": scales}


@given(seed=st.integers(0, 10**6))
@few
def test_experts_of_gpt_oss_are_read(packed, seed):
    """Every expert's matrix is transformers' own, which holds it inputs first."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    tensors = experts(seed)
    theirs = convert_moe_packed_tensors(tensors["_blocks"], tensors["_scales"]).float()
    checkpoint, found = packed(tensors, {"model_type": "gpt_oss", "hidden_size": 16}, experts=True)
    assert [0, 1] == [location.expert for location in found]
    for location in found:
        expected = theirs[location.expert].T.numpy()
        assert expected.tolist() == location.matrix(checkpoint).tolist()
        assert expected[5].tolist() == location.row(checkpoint, 5).tolist()
        scalar = location.scalar(checkpoint, 5, 70)
        assert float(expected[5, 70]) == scalar.value
        power = 2.0 ** (int(tensors["_scales"][location.expert, 5, 2]) - 127)
        assert scalar.step / power in (0.5, 1, 2)


def test_swapped_halves_of_a_byte_are_noticed(packed):
    """The comparison is not blind to the order of the two numbers in a byte."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    tensors = experts(1)
    theirs = convert_moe_packed_tensors(tensors["_blocks"], tensors["_scales"]).float()
    swapped = tensors | {"_blocks": tensors["_blocks"] >> 4 | tensors["_blocks"] << 4}
    checkpoint, found = packed(swapped, {"model_type": "gpt_oss"}, experts=True)
    assert theirs[0].T.tolist() != found[0].matrix(checkpoint).tolist()


def affine(seed, bits, group, outputs=24, inputs=128):
    """Return MLX's tensors and matrix, written out: one row of bits along the inputs, the lowest first."""
    source = np.random.default_rng(seed)
    codes = source.integers(2**bits, size=(outputs, inputs))
    row = (codes[..., None] >> np.arange(bits) & 1).astype(np.uint8).reshape(outputs, -1)
    words = np.packbits(row, axis=-1, bitorder="little").view(np.uint32)
    scales, biases = (
        source.normal(size=(outputs, inputs // group)).astype(np.float16) / 50 for _ in range(2)
    )
    expected = codes * scales.repeat(group, 1).astype(np.float32) + biases.repeat(group, 1).astype(np.float32)
    tensors = {"weight": words, "scales": scales, "biases": biases}
    return torch.from_numpy(expected), {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
@given(
    seed=st.integers(0, 10**6), bits=st.sampled_from([2, 3, 4, 5, 6, 8]), group=st.sampled_from([32, 64, 128])
)
@few
def test_mlx_is_read(same, seed, bits, group, key):
    """q s + b, with the bits and groups that the old config and the new one give."""
    expected, tensors = affine(seed, bits, group)
    config = {key: {"bits": bits, "group_size": group}}
    checkpoint, location = same(expected, tensors, config, rtol=1e-5, atol=1e-6, seed=seed)
    assert f"MLX int{bits}" == location.tensor.dtype
    scale = abs(float(tensors["scales"][3, 70 // group]))
    assert scale == pytest.approx(location.scalar(checkpoint, 3, 70).step)


def test_a_layer_of_its_own_bits_is_read_with_them(same):
    """Mixed releases give a module its own entry."""
    expected, tensors = affine(1, 8, 32)
    own = {"model.layers.0.mlp.down_proj": {"bits": 8, "group_size": 32}}
    same(expected, tensors, {"quantization": {"bits": 4, "group_size": 64, **own}}, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["biases", "scales"])
def test_a_wrong_layout_of_mlx_is_noticed(same, name):
    """The comparison fails when scales or biases lie along the other axis."""
    expected, tensors = affine(1, 4, 32)
    swapped = tensors | {name: tensors[name].T.reshape(tensors[name].shape)}
    with pytest.raises(AssertionError):
        same(expected, swapped, {"quantization": {"bits": 4, "group_size": 32}}, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("bits", "group"), [(2, 32), (3, 64), (4, 64), (5, 32), (6, 64), (8, 128)])
def test_mlx_itself_says_the_same(same, bits, group):
    """Where mlx is installed, its own quantize and dequantize are the measure."""
    mx = pytest.importorskip("mlx.core")
    weight = mx.array(np.random.default_rng(bits).normal(size=(32, 256)).astype(np.float32))
    held = mx.quantize(weight, group_size=group, bits=bits)
    expected = torch.from_numpy(np.array(mx.dequantize(*held, group_size=group, bits=bits)))
    names = ("weight", "scales", "biases")
    tensors = {name: torch.from_numpy(np.array(part)) for name, part in zip(names, held, strict=True)}
    same(expected, tensors, {"quantization": {"bits": bits, "group_size": group}}, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("mode", "group", "bits"), [("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)])
def test_mlx_floats_are_read(same, mode, group, bits):
    """The modes that keep floats of 4 and 8 bits have scales and no biases."""
    mx = pytest.importorskip("mlx.core")
    weight = mx.array(np.random.default_rng(group).normal(size=(32, 256)).astype(np.float32))
    held = mx.quantize(weight, group_size=group, bits=bits, mode=mode)
    expected = mx.dequantize(*held, group_size=group, bits=bits, mode=mode).astype(mx.float32)
    tensors = {n: torch.from_numpy(np.array(p)) for n, p in zip(("weight", "scales"), held, strict=True)}
    config = {"quantization": {"bits": bits, "group_size": group, "mode": mode}}
    same(torch.from_numpy(np.array(expected)), tensors, config)


def test_a_mode_that_is_not_read_is_named(packed):
    """A new mode is refused by its name."""
    _, tensors = affine(1, 8, 32)
    with pytest.raises(BadInput, match="packed as MLX mxfp2, which is not read; give its affine release"):
        packed(tensors, {"quantization": {"bits": 8, "group_size": 32, "mode": "mxfp2"}})
