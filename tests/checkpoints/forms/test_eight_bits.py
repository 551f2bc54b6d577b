"""Integers and floats of 8 bits with scales: what is read is what the maker's library dequantises."""

from types import SimpleNamespace

import pytest
import torch

from tests.checkpoints.forms.test_compressed_tensors import compressed, named, weights

# Scales a tensor, a row, a group and a block, symmetric or with zero points, as llm-compressor names them.
KINDS = [
    ("int-quantized", {"type": "int", "symmetric": True, "strategy": "channel"}),
    ("int-quantized", {"type": "int", "symmetric": False, "strategy": "channel"}),
    ("int-quantized", {"type": "int", "symmetric": False, "strategy": "group", "group_size": 32}),
    ("float-quantized", {"type": "float", "symmetric": True, "strategy": "channel"}),
]


@pytest.mark.parametrize(("form", "arguments"), KINDS, ids=str)
def test_rows_and_groups_of_eight_bits_are_what_compressed_tensors_decompresses(same, form, arguments):
    """By channel and by group, with zero points or without."""
    held, expected, config = compressed(form, weights(5), {"num_bits": 8, **arguments})
    same(expected, named(held), config, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("strategy", "shape", "blocks"),
    [("tensor", (1, 1), None), ("block", (2, 4), [16, 32])],
)
def test_floats_by_tensor_and_block_are_what_compressed_tensors_decompresses(same, strategy, shape, blocks):
    """One scale for all, or one a block whose lengths config_groups tells."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(
        num_bits=8, type="float", symmetric=True, strategy=strategy, block_structure=blocks
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    scale = torch.rand(shape, generator=torch.Generator().manual_seed(2)) / 100 + 0.01
    codes = (torch.randn(32, 128, generator=torch.Generator().manual_seed(3)) * 20).to(torch.float8_e4m3fn)
    held = {"weight": codes, "weight_scale": scale if blocks else scale.reshape(1)}
    library = BaseCompressor.load_from_registry("float-quantized")
    expected = library.decompress(dict(held), scheme)["weight"]
    told = {"num_bits": 8, "type": "float", "strategy": strategy, "block_structure": blocks}
    group = {"targets": ["Linear"], "weights": told}
    config = {"quantization_config": {"format": "float-quantized", "config_groups": {"group_0": group}}}
    same(expected, held, config, rtol=1e-6)


def test_the_integers_of_llm_int8_are_what_bitsandbytes_dequantises(same):
    """bitsandbytes' own quantiser by row, and its own way back."""
    functional = pytest.importorskip("bitsandbytes.functional")
    codes, largest, _ = functional.int8_vectorwise_quant(weights(6).half())
    expected = functional.int8_vectorwise_dequant(codes, largest)
    mark = torch.zeros((), dtype=torch.uint8)
    same(expected, {"weight": codes, "SCB": largest, "weight_format": mark}, rtol=1e-6)


@pytest.mark.parametrize("blocks", [(16, 32), (8, 128)], ids=str)
def test_blocks_of_deepseek_are_what_transformers_dequantises(same, blocks):
    """transformers' own operation on weight_scale_inv, a scale for each block."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    source = torch.Generator().manual_seed(4)
    codes = (torch.randn(32, 128, generator=source) * 20).to(torch.float8_e4m3fn)
    scales = torch.rand(32 // blocks[0], 128 // blocks[1], generator=source) / 100 + 0.01
    expected = Fp8Dequantize(SimpleNamespace())._dequantize_one(codes, scales, torch.float32)
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": list(blocks)}}
    same(expected, {"weight": codes, "weight_scale_inv": scales}, config, rtol=1e-6)


def test_a_scale_along_the_other_axis_is_noticed(same):
    """The comparison fails where blocks are read as columns before rows."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    source = torch.Generator().manual_seed(4)
    codes = (torch.randn(64, 64, generator=source) * 20).to(torch.float8_e4m3fn)
    scales = torch.rand(4, 4, generator=source) / 100 + 0.01
    expected = Fp8Dequantize(SimpleNamespace())._dequantize_one(codes, scales.T, torch.float32)
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 16]}}
    with pytest.raises(AssertionError):
        same(expected, {"weight": codes, "weight_scale_inv": scales}, config, rtol=1e-6)
