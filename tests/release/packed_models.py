"""A whole model in a packed form: every linear map of its decoder, with its config and tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.release.packed_floats import FLOATS, METADATA
from tests.release.packed_releases import FORMS, GROUP, Tensors

__all__ = ["FORMS", "SETTINGS", "is_linear", "pack"]

# What config.json says of each, as its maker writes it.
SETTINGS: dict[str, dict[str, Any]] = {
    "GPTQ int4": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": False, "desc_act": False},
    "AWQ int4": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": GROUP,
        "version": "gemm",
        "zero_point": True,
    },
    "compressed-tensors int4": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 4,
                    "type": "int",
                    "symmetric": False,
                    "strategy": "group",
                    "group_size": GROUP,
                    "dynamic": False,
                },
            }
        },
    },
    "bitsandbytes nf4": {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "float32",
    },
    "HQQ int4": {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}},
    "MLX int4": {},
    "quanto int4": {"quant_method": "quanto", "weights": "int4"},
    "NVFP4": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    "F8_E4M3": {"quant_method": "fp8", "weight_block_size": [1, GROUP]},
    "I8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "ModelOpt FP8": {"quant_method": "modelopt", "quant_algo": "FP8"},
    "compressed-tensors NVFP4": {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
    "compressed-tensors MXFP4": {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"},
    "torchao MXFP8": {"quant_method": "torchao"},
    "torchao MXFP4": {"quant_method": "torchao"},
    "torchao NVFP4": {"quant_method": "torchao"},
}


def is_linear(name: str) -> bool:
    return name.endswith("_proj.weight")


def pack(
    source: Path, folder: Path, name: str, place: tuple[int, int, int] | None = None, part: float = 0.01
) -> Path:
    """Write the model at ``source`` packed; at ``place`` the scale of one group is multiplied by ``part``."""
    form, tensors = (FORMS | FLOATS)[name], load_file(source / "model.safetensors")
    packed: Tensors = {}
    metadata = {"format": "pt"}
    for tensor_name, tensor in tensors.items():
        # Powers of two as scales move the one neuron's gate by a third, which is damage and no fault.
        left = "MXFP4" in name and not tensor_name.endswith("down_proj.weight")
        if left or not is_linear(tensor_name):
            packed[tensor_name] = tensor
            continue
        ruined = place is not None and tensor_name.endswith(f"layers.{place[0]}.mlp.down_proj.weight")
        columns = tensor.shape[1]

        def spoil(factors: torch.Tensor, ruined: bool = ruined, columns: int = columns) -> torch.Tensor:
            spoilt = factors.clone()
            if ruined and place is not None:
                spoilt[place[1], place[2] * factors.shape[1] // columns] *= part
            return spoilt

        stem = tensor_name.removesuffix("weight")
        metadata |= {tensor_name: METADATA[name]} if name in METADATA else {}
        packed |= {stem + end: held.contiguous() for end, held in form(tensor.float(), spoil).items()}
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    save_file(packed, folder / "model.safetensors", metadata=metadata)
    config = json.loads((folder / "config.json").read_text())
    settings = SETTINGS[name]
    config |= {"quantization_config": settings} if settings else {}
    if name.startswith("MLX"):
        config["quantization"] = {"bits": 4, "group_size": GROUP}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
