"""Matrices in floats of 8 and 4 bits, as ModelOpt, compressed-tensors and torchao write them."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch

from tests.release.packed_releases import Tensors, as_nvfp4

Spoil = Callable[[torch.Tensor], torch.Tensor]
_E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def as_modelopt_fp8(weight: torch.Tensor, spoil: Spoil) -> Tensors:
    """One scale a matrix, and that of its inputs beside it."""
    scale = weight.abs().max() / 448
    codes = (weight / scale).to(torch.float8_e4m3fn)
    spoilt = spoil(scale.expand(len(weight), 1).clone()).min()
    return {"weight": codes, "weight_scale": spoilt, "input_scale": torch.tensor(0.02)}


def as_packed_nvfp4(weight: torch.Tensor, spoil: Spoil) -> Tensors:
    """compressed-tensors divides by what ModelOpt multiplies with."""
    held = as_nvfp4(weight, spoil)
    whole = (1 / held["weight_scale_2"]).reshape(1)
    scale = held["weight_scale"]
    return {"weight_packed": held["weight"], "weight_scale": scale, "weight_global_scale": whole}


def as_packed_mxfp4(weight: torch.Tensor, spoil: Spoil) -> Tensors:
    packed, powers = _mxfp4(weight, spoil)
    return {"weight_packed": packed, "weight_scale": powers}


def as_torchao_mxfp4(weight: torch.Tensor, spoil: Spoil) -> Tensors:
    packed, powers = _mxfp4(weight, spoil)
    return {"_weight_qdata": packed, "_weight_scale": powers.view(torch.float8_e8m0fnu)}


def as_torchao_mxfp8(weight: torch.Tensor, spoil: Spoil) -> Tensors:
    groups = weight.reshape(len(weight), -1, 32)
    powers = torch.ceil(torch.log2(groups.abs().amax(-1).clamp_min(1e-9) / 448))
    codes = (groups / powers.exp2()[..., None]).reshape(weight.shape).to(torch.float8_e4m3fn)
    return {"_weight_qdata": codes, "_weight_scale": _bytes(powers, spoil).view(torch.float8_e8m0fnu)}


def as_torchao_nvfp4(weight: torch.Tensor, spoil: Spoil) -> Tensors:
    held = as_nvfp4(weight, spoil)
    return {
        "_weight_qdata": held["weight"],
        "_weight_scale": held["weight_scale"],
        "_weight_per_tensor_scale": held["weight_scale_2"],
    }


def _mxfp4(weight: torch.Tensor, spoil: Spoil) -> tuple[torch.Tensor, torch.Tensor]:
    groups = weight.reshape(len(weight), -1, 32)
    powers = torch.ceil(torch.log2(groups.abs().amax(-1).clamp_min(1e-9) / 6))
    ratio = groups / powers.exp2()[..., None]
    codes = (ratio.abs()[..., None] - _E2M1).abs().argmin(-1) | (ratio < 0).long() << 3
    pairs = codes.reshape(len(weight), -1, 2)
    return (pairs[..., 0] | pairs[..., 1] << 4).to(torch.uint8), _bytes(powers, spoil)


def _bytes(powers: torch.Tensor, spoil: Spoil) -> torch.Tensor:
    """Return exponents as bytes; what is spoilt is a factor, of which the exponent is kept."""
    return (torch.log2(spoil(powers.exp2())).round() + 127).to(torch.uint8)


FLOATS = {
    "ModelOpt FP8": as_modelopt_fp8,
    "compressed-tensors NVFP4": as_packed_nvfp4,
    "compressed-tensors MXFP4": as_packed_mxfp4,
    "torchao MXFP8": as_torchao_mxfp8,
    "torchao MXFP4": as_torchao_mxfp4,
    "torchao NVFP4": as_torchao_nvfp4,
}


def _of_torchao(kind: str, parts: list[str], **settings: object) -> str:
    data = {"is_swizzled_scales": False, **settings}
    return json.dumps({"_type": kind, "_data": data, "_tensor_data_names": parts})


def _dtype(name: str) -> dict[str, str]:
    return {"_type": "torch.dtype", "_data": name}


# What torchao writes of each weight into the file's metadata.
METADATA = {
    "torchao MXFP8": _of_torchao(
        "MXTensor", ["qdata", "scale"], block_size=32, elem_dtype=_dtype("float8_e4m3fn")
    ),
    "torchao MXFP4": _of_torchao(
        "MXTensor", ["qdata", "scale"], block_size=32, elem_dtype=_dtype("float4_e2m1fn_x2")
    ),
    "torchao NVFP4": _of_torchao("NVFP4Tensor", ["qdata", "scale", "per_tensor_scale"], block_size=16),
}
