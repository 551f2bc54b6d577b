"""compressed-tensors and ModelOpt: what is read is what compressed_tensors decompresses."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superweight.core.errors import BadInput

few = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))


def compressed(form, weight, arguments):
    """Return the tensors and the matrix that the library makes of a weight, and the config."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(**arguments)
    size = args.group_size or weight.shape[1]
    grouped = weight.reshape(weight.shape[0], -1, size)
    extra = {}
    if form.startswith("nvfp4"):
        extra["weight_global_scale"] = torch.tensor([2688.0 / float(weight.abs().max())])
    scale, zero = calculate_qparams(
        grouped.amin(-1),
        grouped.amax(-1),
        args,
        **({"global_scale": extra["weight_global_scale"]} if extra else {}),
    )
    state = {"weight": weight, "weight_scale": scale, **extra}
    if not args.symmetric:
        state["weight_zero_point"] = zero
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    library = BaseCompressor.load_from_registry(form)
    held = dict(library.compress(dict(state), scheme))
    expected = library.decompress(dict(held), scheme)["weight"]
    group = {"targets": ["Linear"], "weights": {"num_bits": args.num_bits, "group_size": args.group_size}}
    return held, expected, {"quantization_config": {"format": form, "config_groups": {"group_0": group}}}


def weights(seed, outputs=24, inputs=128):
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) / 20


@given(
    seed=st.integers(0, 10**6),
    bits=st.sampled_from([4, 8]),
    symmetric=st.booleans(),
    group=st.sampled_from([None, 32, 64]),
)
@few
def test_packed_integers_are_read(same, seed, bits, symmetric, group):
    """W4A16 and W8A16, by channel or group, symmetric or with packed zero points."""
    arguments = {"num_bits": bits, "type": "int", "symmetric": symmetric, "group_size": group}
    arguments["strategy"] = "group" if group else "channel"
    held, expected, config = compressed("pack-quantized", weights(seed), arguments)
    checkpoint, location = same(expected, named(held), config, rtol=1e-6, atol=1e-7, seed=seed)
    assert f"compressed-tensors int{bits}" == location.tensor.dtype
    scale = held["weight_scale"].repeat_interleave(group or 128, 1)
    assert float(scale[3, 70]) == pytest.approx(location.scalar(checkpoint, 3, 70).step)


def named(held):
    return {name: tensor for name, tensor in held.items() if tensor is not None}


@given(seed=st.integers(0, 10**6), form=st.sampled_from(["nvfp4-pack-quantized", "mxfp4-pack-quantized"]))
@few
def test_packed_floats_are_read(same, seed, form):
    """NVFP4 is divided by the matrix's scale; MXFP4 has powers of two alone."""
    expected, held, config = floats(seed, form)
    # The library decompresses to bfloat16, which keeps 8 bits.
    _, location = same(expected, held, config, rtol=2**-7, seed=seed)
    assert form[:5].upper() == location.tensor.dtype


def floats(seed, form):
    micro = form.startswith("mxfp4")
    arguments = {"num_bits": 4, "type": "float", "symmetric": True, "group_size": 32 if micro else 16}
    arguments["strategy"] = "group" if micro else "tensor_group"
    arguments["scale_dtype"] = torch.uint8 if micro else torch.float8_e4m3fn
    held, expected, config = compressed(form, weights(seed), arguments)
    return expected, named(held), config


@given(seed=st.integers(0, 10**6))
@few
def test_model_optimizer_nvfp4_is_read(same, seed):
    """ModelOpt multiplies by weight_scale_2 where compressed-tensors divides by its inverse."""
    expected, held, _ = floats(seed, "nvfp4-pack-quantized")
    tensors = {
        "weight": held["weight_packed"],
        "weight_scale": held["weight_scale"],
        "weight_scale_2": (1 / held["weight_global_scale"]).reshape(()),
    }
    _, location = same(expected, tensors, {"quantization_config": {"quant_method": "modelopt"}}, rtol=2**-7)
    assert "NVFP4" == location.tensor.dtype


@given(seed=st.integers(0, 10**6))
@few
def test_mxfp8_is_read(same, seed):
    """8-bit floats with an exponent for each 32 inputs, stored as bytes."""
    arguments = {"num_bits": 8, "type": "float", "symmetric": True, "group_size": 32, "strategy": "group"}
    arguments["scale_dtype"] = torch.uint8
    held, expected, config = compressed("mxfp8-quantized", weights(seed), arguments)
    same(expected, named(held), config, rtol=2**-7, seed=seed)


@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["int", "float"]), group=st.sampled_from([32, 64]))
@few
def test_eight_bits_by_group_are_read(same, seed, kind, group):
    """The group's size is told by config_groups alone."""
    form = "int-quantized" if kind == "int" else "float-quantized"
    arguments = {"num_bits": 8, "type": kind, "symmetric": True, "group_size": group, "strategy": "group"}
    held, expected, config = compressed(form, weights(seed, inputs=192), arguments)
    same(expected, named(held), config, rtol=1e-5, seed=seed)


def swapped_nibbles(held):
    return held | {"weight_packed": held["weight_packed"] >> 4 | held["weight_packed"] << 4}


def without_the_scale_of_the_matrix(held):
    return {name: tensor for name, tensor in held.items() if name != "weight_global_scale"}


@pytest.mark.parametrize("fault", [swapped_nibbles, without_the_scale_of_the_matrix])
def test_a_wrong_layout_of_floats_is_noticed(same, fault):
    """The comparison fails when the halves of a byte are swapped or the matrix's scale is left out."""
    expected, held, config = floats(1, "nvfp4-pack-quantized")
    with pytest.raises(AssertionError):
        same(expected, fault(held), config, rtol=2**-7)


@pytest.mark.parametrize("name", ["weight_scale", "weight_zero_point"])
def test_a_wrong_layout_of_integers_is_noticed(same, name):
    """The comparison fails when scales lie along the other axis or zero points are off."""
    arguments = {"num_bits": 4, "type": "int", "symmetric": False, "group_size": 32, "strategy": "group"}
    held, expected, config = compressed("pack-quantized", weights(1), arguments)
    other = held[name].T.reshape(held[name].shape) if name == "weight_scale" else held[name] ^ 1
    with pytest.raises(AssertionError):
        same(expected, named(held) | {name: other}, config, rtol=1e-6, atol=1e-7)


def test_scales_that_do_not_fit_are_refused(packed):
    """One line names the tensor and what to do."""
    _, held, config = floats(1, "mxfp4-pack-quantized")
    with pytest.raises(BadInput, match=r"weight_scale, U8 of shape .* as 4-bit floats; the file is damaged"):
        packed(held | {"weight_scale": held["weight_scale"][:, :3]}, config)


@pytest.mark.parametrize("whole", [True, False], ids=["a number each", "packed"])
def test_zero_points_may_lie_unpacked(same, whole):
    """One signed byte for each row and group, as older releases have them, says the same as packed words."""
    arguments = {"num_bits": 8, "type": "int", "symmetric": False, "group_size": 32, "strategy": "group"}
    held, expected, config = compressed("pack-quantized", weights(3), arguments)
    if whole:
        words = held["weight_zero_point"]
        points = torch.stack([words >> 8 * place & 255 for place in range(4)], dim=1).flatten(0, 1)[:24]
        held["weight_zero_point"] = (points - 128).to(torch.int8)
    same(expected, named(held), config, rtol=1e-6, atol=1e-7)


def test_more_than_eight_bits_are_none_of_this_form(packed):
    """A width that the config names and the words would have room for is refused all the same."""
    words = torch.zeros(24, 9, dtype=torch.int32)  # 32 numbers of 9 bits
    held = {
        "weight_packed": words,
        "weight_scale": torch.ones(24, 1),
        "weight_shape": torch.tensor([24, 32]),
    }
    group = {"targets": ["Linear"], "weights": {"num_bits": 9, "group_size": None}}
    config = {"quantization_config": {"format": "pack-quantized", "config_groups": {"group_0": group}}}
    with pytest.raises(BadInput, match="compressed-tensors int9"):
        packed(held, config)
