"""HQQ, optimum-quanto and torchao: what is read is what the library, or its layout in torch, gives."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superweight.core.errors import BadInput

few = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))


def generator(seed):
    return torch.Generator().manual_seed(seed)


def hqq(seed, bits, axis, group=32, shape=(24, 128)):
    """Return HQQ's tensors and matrix: rows of groups, of which the first ones take the highest bits."""
    source = generator(seed)
    count = shape[0] * shape[1] // group
    groups = (count, group) if axis == 1 else (group, count)
    codes = torch.randint(2**bits, groups, generator=source)
    along = (count, 1) if axis == 1 else (1, count)
    scale, zero = torch.rand(along, generator=source) / 50, torch.rand(along, generator=source) * 2**bits
    each = 8 // bits
    packed = sum(part << (each - 1 - place) * bits for place, part in enumerate(codes.chunk(each)))
    tensors = {
        "W_q": packed.to(torch.uint8),
        "scale": scale,
        "zero": zero,
        "shape": torch.tensor(shape),
        "nbits": torch.tensor(bits, dtype=torch.int32),
        "axis": torch.tensor(axis, dtype=torch.int32),
        "group_size": torch.tensor(group, dtype=torch.int32),
    }
    return ((codes - zero) * scale).reshape(shape), tensors


@given(seed=st.integers(0, 10**6), bits=st.sampled_from([1, 2, 4, 8]), axis=st.sampled_from([0, 1]))
@few
def test_hqq_is_read(same, seed, bits, axis):
    """Every number of bits that packs into bytes, with groups along either axis."""
    expected, tensors = hqq(seed, bits, axis)
    _, location = same(expected, tensors, rtol=1e-6, seed=seed)
    assert f"HQQ int{bits}" == location.tensor.dtype


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("axis", [0, 1])
def test_hqq_itself_says_the_same(same, bits, axis):
    """Where hqq is installed, its own quantizer is the measure."""
    quantize = pytest.importorskip("hqq.core.quantize")
    weight = torch.randn(32, 128, generator=generator(bits)) / 20
    held, meta = quantize.Quantizer.quantize(
        weight,
        nbits=bits,
        axis=axis,
        group_size=64,
        device="cpu",
        compute_dtype=torch.float32,
        optimize=False,
    )
    expected = quantize.Quantizer.dequantize(held, meta)
    numbers = {name: torch.tensor(meta[name]) for name in ("nbits", "axis", "group_size")}
    tensors = {
        "W_q": held,
        "scale": meta["scale"],
        "zero": meta["zero"],
        "shape": torch.tensor(meta["shape"]),
    }
    same(expected, tensors | numbers, rtol=1e-5, atol=1e-7)


def test_hqq_of_bits_that_it_does_not_make_is_named(packed):
    """Five bits are none of its packings."""
    _, tensors = hqq(1, 4, 1)
    with pytest.raises(BadInput, match="packed as HQQ of 5 bits, which is not read"):
        packed(tensors | {"nbits": torch.tensor(5, dtype=torch.int32)})


def test_a_row_of_hqq_too_few_is_refused(packed):
    """Ten codes of 3 bits share a word, and the last word is padded; a word that lacks is damage."""
    _, tensors = hqq(1, 4, 1)
    with pytest.raises(BadInput, match="does not go with the tensors beside it as HQQ"):
        packed(tensors | {"W_q": tensors["W_q"][:-1]})


@pytest.mark.parametrize("name", ["W_q", "zero", "scale"])
def test_a_wrong_layout_of_hqq_is_noticed(same, name):
    """The comparison fails for halves swapped, zero points off by one, and factors in another order."""
    expected, tensors = hqq(1, 4, 1)
    other = {
        "W_q": tensors["W_q"] >> 4 | tensors["W_q"] << 4,
        "zero": tensors["zero"] + 1,
        "scale": tensors["scale"].flip(0),
    }
    with pytest.raises(AssertionError):
        same(expected, tensors | {name: other[name]}, rtol=1e-6)


def quanto(seed, bits, group=32, shape=(24, 128), *, floating=True):
    """Return quanto's tensors and matrix: the first groups lie in the lowest bits, the shift is scaled."""
    source = generator(seed)
    count = shape[0] * shape[1] // group
    codes = torch.randint(2**bits, (count, group), generator=source)
    scale, shift = (torch.rand((count, 1), generator=source) / 50 for _ in range(2))
    packed = sum(part << place * bits for place, part in enumerate(codes.chunk(8 // bits)))
    expected = (codes * scale - shift).reshape(shape)
    tensors = {"weight._data._data": packed.to(torch.uint8), "weight._scale": scale, "weight._shift": shift}
    return expected, tensors


@given(seed=st.integers(0, 10**6), bits=st.sampled_from([2, 4]))
@few
def test_quanto_of_few_bits_is_read(same, seed, bits):
    """q s - shift by group; the hidden size tells how many groups a row has."""
    expected, tensors = quanto(seed, bits)
    _, location = same(expected, tensors, {"hidden_size": 24}, rtol=1e-5, atol=1e-6, seed=seed)
    assert f"quanto int{bits}" == location.tensor.dtype


def state_of(tensor):
    state = {}
    tensor.save_to_state_dict(state, "weight.", False)
    return {name: part.contiguous() for name, part in state.items()}


@pytest.mark.parametrize("kind", ["qint8", "qfloat8_e4m3fn", "qint4", "qint2"])
def test_quanto_itself_says_the_same(same, kind, monkeypatch):
    """Where optimum-quanto is installed, its own dequantize is the measure."""
    library = pytest.importorskip("optimum.quanto")
    from optimum.quanto.library import get_extension

    # Its unpacking in Python, which is registered for every device. That in C++ is compiled on first
    # use, for half a minute.
    every_device = partial(
        torch.ops.quanto.unpack.default._op_dk, torch._C.DispatchKey.CompositeExplicitAutograd
    )
    monkeypatch.setattr(get_extension("quanto_cpp"), "_lib", SimpleNamespace(unpack=every_device))
    weight = torch.randn(32, 256, generator=generator(3)) / 20
    qtype = library.qtypes[kind]
    if qtype.bits == 8:
        scale = library.AbsmaxOptimizer()(weight, qtype=qtype, axis=0)
        held = library.quantize_weight(weight, qtype, axis=0, scale=scale)
    else:
        scale, shift = library.MaxOptimizer()(weight, qtype=qtype, axis=0, group_size=64)
        held = library.quantize_weight(weight, qtype, axis=0, scale=scale, shift=shift, group_size=64)
    tensors = state_of(held)
    same(held.dequantize(), tensors, {"hidden_size": 32}, rtol=1e-5, atol=1e-6)


@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["int8", "float8", "int8 by group", "int4 with zero points"]),
)
@few
def test_torchao_is_read(same, seed, kind):
    """What the library writes through its flattening, with the class in the file's metadata."""
    expected, tensors, metadata = ao(seed, kind)
    _, location = same(expected, tensors, None, metadata, rtol=1e-6, atol=1e-8, seed=seed)
    assert location.tensor.dtype.startswith("torchao ")


def ao(seed, kind):
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import (
        Float8WeightOnlyConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        MappingType,
        quantize_,
    )
    from torchao.quantization.granularity import PerGroup

    configs = {
        "int8": Int8WeightOnlyConfig(version=2),
        "float8": Float8WeightOnlyConfig(),
        "int8 by group": IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=PerGroup(32)),
        "int4 with zero points": IntxWeightOnlyConfig(
            weight_dtype=torch.int4, granularity=PerGroup(32), mapping_type=MappingType.ASYMMETRIC
        ),
    }
    layer = torch.nn.Linear(128, 48, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(48, 128, generator=generator(seed)) / 20)
    quantize_(layer, configs[kind])
    stem = "model.layers.0.mlp.down_proj"
    flat, metadata = flatten_tensor_state_dict({f"{stem}.weight": layer.weight.data})
    tensors = {name.removeprefix(f"{stem}."): tensor for name, tensor in flat.items()}
    return layer.weight.dequantize(), tensors, metadata


def micro_scaled(seed, kind, rows=160, cols=320):
    """Return what torchao makes of a random matrix in MX or NVFP4, and what it says the numbers are."""
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    weight = torch.randn(rows, cols, generator=generator(seed)) / 20
    swizzled = kind.endswith("tiles")
    if kind.startswith("NVFP4"):
        whole = per_tensor_amax_to_scale(weight.abs().max()) if "whole" in kind else None
        held = NVFP4Tensor.to_nvfp4(weight, per_tensor_scale=whole, is_swizzled_scales=swizzled)
    else:
        elements = torch.float4_e2m1fn_x2 if "fp4" in kind else torch.float8_e4m3fn
        held = MXTensor.to_mx(weight, elements, block_size=32, is_swizzled_scales=swizzled)
    stem = "model.layers.0.mlp.down_proj"
    flat, metadata = flatten_tensor_state_dict({f"{stem}.weight": held})
    tensors = {name.removeprefix(f"{stem}."): tensor for name, tensor in flat.items()}
    return held.dequantize(torch.float32), tensors, metadata


MICRO = ["MX fp8", "MX fp8, tiles", "MX fp4", "NVFP4", "NVFP4, tiles", "NVFP4, whole, tiles"]


@pytest.mark.parametrize("kind", MICRO)
def test_the_micro_scaled_formats_of_torchao_are_read(same, kind):
    """MX and NVFP4, scales in rows or in tensor cores' tiles: the library's dequantize is the measure."""
    expected, tensors, metadata = micro_scaled(4, kind)
    _, location = same(expected, tensors, None, metadata, rtol=1e-6, atol=1e-8)
    assert f"torchao {kind.split(',')[0].replace(' fp', 'FP')}" == location.tensor.dtype


def test_model_optimizer_nvfp4_is_torchao_s(same):
    """The same three tensors under ModelOpt's names are the numbers that torchao's dequantize gives."""
    expected, tensors, _ = micro_scaled(6, "NVFP4, whole")
    named = {
        "weight": tensors["_weight_qdata"],
        "weight_scale": tensors["_weight_scale"],
        "weight_scale_2": tensors["_weight_per_tensor_scale"],
    }
    config = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}
    _, location = same(expected, named, config, rtol=1e-6, atol=1e-8)
    assert "NVFP4" == location.tensor.dtype


def test_scales_in_tiles_that_are_read_as_rows_are_noticed(same):
    """The comparison fails where the order of the scales is not the one that the metadata tells."""
    expected, tensors, metadata = micro_scaled(4, "NVFP4, tiles", rows=128, cols=256)
    name = "model.layers.0.mlp.down_proj.weight"
    plain = metadata | {
        name: metadata[name].replace('"is_swizzled_scales": true', '"is_swizzled_scales": false')
    }
    assert plain != metadata
    with pytest.raises(AssertionError):
        same(expected, tensors, None, plain, rtol=1e-6, atol=1e-8)


def test_no_int4_class_of_torchao_can_be_made_or_undone_without_its_accelerator():
    """Why they are named and not read: there is nothing on a CPU to hold a reader to."""
    from torchao.quantization import Int4Tensor, Int4WeightOnlyConfig, quantize_

    for form in ("plain", "plain_int32", "tile_packed_to_4d", "preshuffled"):
        layer = torch.nn.Linear(256, 64, bias=False).bfloat16()
        with pytest.raises((ImportError, NotImplementedError, AssertionError)):
            quantize_(layer, Int4WeightOnlyConfig(group_size=32, int4_packing_format=form))
    codes, scales = torch.zeros(64, 128, dtype=torch.int8), torch.ones(8, 64).bfloat16()
    with pytest.raises(NotImplementedError, match="dequantize"):
        Int4Tensor(codes, scales, scales, [1, 32], torch.Size([64, 256])).dequantize()


def test_a_zero_point_of_torchao_that_is_off_is_noticed(same):
    """The comparison fails when the zero points are one more."""
    expected, tensors, metadata = ao(1, "int8 by group")
    name = "_weight_zero_point"
    with pytest.raises(AssertionError):
        same(expected, tensors | {name: tensors[name] + 1}, None, metadata, rtol=1e-6, atol=1e-8)


def test_a_class_of_torchao_that_is_not_read_is_named(packed):
    """Layouts of one kernel alone are refused by the class's name."""
    _, tensors, metadata = ao(1, "int8")
    name = "model.layers.0.mlp.down_proj.weight"
    other = metadata | {name: metadata[name].replace("Int8Tensor", "Int4TilePackedTo4dTensor")}
    with pytest.raises(BadInput, match="packed as torchao Int4TilePackedTo4dTensor, which is not read"):
        packed(tensors, None, other)


@pytest.mark.parametrize("axis", ["several scales a row", "no rows"])
def test_quanto_along_another_axis_is_refused(packed, axis):
    """Where a row has several scales, or there is none, the order of the numbers is not told."""
    _, tensors = quanto(1, 4)
    if axis == "no rows":
        tensors["weight._data._data"] = tensors["weight._data._data"][:0]
    else:
        tensors["weight._scale"] = tensors["weight._scale"].reshape(-1, 2)
    with pytest.raises(BadInput, match="does not go with the tensors beside it as quanto"):
        packed(tensors, {"hidden_size": 24})
