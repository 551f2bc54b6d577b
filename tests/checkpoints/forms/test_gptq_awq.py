"""GPTQ and AWQ: what is read is s (q - z), whatever the group, the order of the inputs and the version."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superweight.checkpoints.forms import gptq as gptq_form
from superweight.checkpoints.forms.form import unpacked
from superweight.core.errors import BadInput
from tests.checkpoints.forms.layouts import awq, gptq, words

V2 = {"quantization_config": {"quant_method": "gptq", "checkpoint_format": "gptq_v2"}}
AWQ = {"quantization_config": {"quant_method": "awq", "version": "gemm"}}
few = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def random(seed, inputs, outputs, group, bits, *, shuffled=False):
    source = torch.Generator().manual_seed(seed)
    groups = inputs // group
    codes = torch.randint(2**bits, (inputs, outputs), generator=source)
    zeros = torch.randint(2**bits, (groups, outputs), generator=source)
    scales = (torch.rand(groups, outputs, generator=source) / 50 + 0.001).half()
    order = torch.randperm(inputs, generator=source) if shuffled else torch.arange(inputs)
    g_idx = (order // group).int()
    expected = ((codes - zeros[g_idx]) * scales.float()[g_idx]).T
    return codes, zeros, scales, g_idx, expected


@given(
    seed=st.integers(0, 10**6), bits=st.sampled_from([2, 3, 4, 8]), shuffled=st.booleans(), v2=st.booleans()
)
@few
def test_gptq_is_read(same, seed, bits, shuffled, v2):
    """Two, three, four and eight bits; zero points less one in version 1; inputs in the order of g_idx."""
    codes, zeros, scales, g_idx, expected = random(seed, 64, 32, 16, bits, shuffled=shuffled)
    tensors = gptq(codes, zeros, scales, g_idx, bits, minus_one=not v2)
    checkpoint, location = same(expected, tensors, V2 if v2 else {}, seed=seed)
    assert f"GPTQ int{bits}" == location.tensor.dtype
    assert float(scales[int(g_idx[5]), 7]) == pytest.approx(location.scalar(checkpoint, 7, 5).step)


def test_gptq_without_g_idx_has_groups_in_order(same):
    """Old and AutoRound releases leave g_idx out."""
    codes, zeros, scales, _, expected = random(1, 64, 32, 32, 4)
    same(expected, gptq(codes, zeros, scales, None, 4, minus_one=True))


@given(seed=st.integers(0, 10**6), group=st.sampled_from([16, 32, 64]))
@few
def test_awq_is_read(same, seed, group):
    """Codes and zero points lie along the outputs in the kernel's order; zero points are as they are."""
    codes, zeros, scales, g_idx, expected = random(seed, 64, 40, group, 4)
    checkpoint, location = same(expected, awq(codes, zeros, scales), AWQ, seed=seed)
    assert "AWQ int4" == location.tensor.dtype
    assert float(scales[int(g_idx[5]), 7]) == pytest.approx(location.scalar(checkpoint, 7, 5).step)


def test_awq_of_another_kernel_is_named(packed):
    """The gemv layout shares the names and not the order."""
    codes, zeros, scales, _, _ = random(1, 64, 64, 32, 4)
    with pytest.raises(BadInput, match="packed as AWQ gemv, which is not read; give its gemm release"):
        packed(awq(codes, zeros, scales), {"quantization_config": {"version": "gemv"}})


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8])
def test_codes_may_straddle_words(bits):
    """A row of bits is read the lowest first, whatever the number of bits."""
    codes = torch.randint(2**bits, (3, 64), generator=torch.Generator().manual_seed(bits))
    assert codes.tolist() == unpacked(words(codes.tolist(), bits).numpy(), bits).tolist()


def wrong_zero_point(tensors, config):
    return tensors, V2  # read as if it were not less one


def wrong_nibble_order(tensors, config):
    data = np.ascontiguousarray(tensors["qweight"].numpy().T).view(np.uint8)
    return tensors | {"qweight": torch.from_numpy((data >> 4 | data << 4).view(np.int32).T)}, config


def swapped_scales(tensors, config):
    return tensors | {"scales": tensors["scales"].T.reshape(tensors["scales"].shape)}, config


def other_groups(tensors, config):
    return tensors | {"g_idx": tensors["g_idx"].flip(0)}, config


@pytest.mark.parametrize("fault", [wrong_zero_point, wrong_nibble_order, swapped_scales, other_groups])
def test_a_wrong_layout_is_noticed(same, fault):
    """The comparison above fails when codes, zero points, scales or groups lie otherwise."""
    codes, zeros, scales, g_idx, expected = random(3, 64, 32, 16, 4)
    tensors, config = fault(gptq(codes, zeros, scales, g_idx, 4, minus_one=True), {})
    with pytest.raises(AssertionError):
        same(expected, tensors, config)


def test_awq_in_plain_order_is_noticed(same):
    """The order 0 1 2 3 4 5 6 7 is another matrix."""
    codes, zeros, scales, _, expected = random(3, 64, 40, 32, 4)
    plain = {"qweight": words(codes.tolist(), 4), "qzeros": words(zeros.tolist(), 4), "scales": scales}
    with pytest.raises(AssertionError):
        same(expected, plain, AWQ)


def test_a_group_that_is_not_there_is_refused(same):
    """A damaged g_idx is no reason for a traceback."""
    codes, zeros, scales, g_idx, expected = random(3, 64, 32, 16, 4)
    g_idx[0] = 9
    with pytest.raises(BadInput, match=r"down_proj\.g_idx.* does not go with the tensors beside it as GPTQ"):
        same(expected, gptq(codes, zeros, scales, g_idx, 4, minus_one=True))


def test_shapes_that_do_not_go_together_are_refused(packed):
    """One line names the tensor."""
    codes, zeros, scales, g_idx, _ = random(3, 64, 32, 16, 4)
    tensors = gptq(codes, zeros, scales, g_idx, 4, minus_one=True)
    with pytest.raises(BadInput, match=r"qzeros, I32 of shape \[4, 3\], does not go with"):
        packed(tensors | {"qzeros": tensors["qzeros"][:, :3]})
    assert "GPTQ" == gptq_form.FORM.name


def test_auto_awq_itself_says_the_same(same):
    """Where AutoAWQ is installed, its own unpacking is the measure; its kernels are not needed."""
    found = importlib.util.find_spec("awq")
    if found is None or not found.submodule_search_locations:
        pytest.skip("autoawq is not installed")
    path = Path(next(iter(found.submodule_search_locations))) / "utils" / "packing_utils.py"
    spec = importlib.util.spec_from_file_location("packing_utils", path)
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    source = torch.Generator().manual_seed(4)
    qweight, qzeros = (
        torch.randint(-(2**31), 2**31 - 1, shape, generator=source).int() for shape in ((64, 5), (2, 5))
    )
    scales = torch.rand(2, 40, generator=source) / 50
    expected = library.dequantize_gemm(qweight, qzeros, scales, 4, 32).T
    same(expected, {"qweight": qweight, "qzeros": qzeros, "scales": scales}, AWQ, rtol=1e-6)


def test_what_awq_left_alone_is_read_as_it_is(packed):
    """A module without scales is a plain one, whatever the config says of the others."""
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(1))
    checkpoint, (location,) = packed({"weight": weight}, AWQ)
    assert "F32" == location.tensor.dtype
    assert weight.tolist() == location.matrix(checkpoint).tolist()
