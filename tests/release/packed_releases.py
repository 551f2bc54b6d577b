"""Releases of one model in packed forms: sound ones, and ones whose super weight's group is destroyed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.checkpoints.forms.layouts import awq, gptq

LAYERS, HIDDEN, INTERMEDIATE, GROUP = 2, 64, 128, 32
AT = (1, 5, 70)
Tensors = dict[str, torch.Tensor]


def matrices() -> list[torch.Tensor]:
    """Return the output projections of a model with one super weight."""
    source = torch.Generator().manual_seed(0)
    found = [torch.randn(HIDDEN, INTERMEDIATE, generator=source) / 50 for _ in range(LAYERS)]
    layer, row, col = AT
    found[layer][row, col] = -3.0
    return found


def rounded(weight: torch.Tensor, levels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes, (outputs, groups, inputs of each), and zero points and scales, (outputs, groups)."""
    groups = weight.reshape(len(weight), -1, GROUP)
    low, high = groups.amin(-1).clamp_max(0), groups.amax(-1).clamp_min(0)
    scale = (high - low).clamp_min(1e-6) / levels
    zero = (-low / scale).round()
    codes = ((groups / scale[..., None]).round() + zero[..., None]).clamp(0, levels)
    return codes.long(), zero.long(), scale


def group_of(shape: torch.Size) -> tuple[int, int]:
    """Return where the super weight's factor stands in one of (outputs, groups)."""
    _, row, col = AT
    return row, col * shape[1] // INTERMEDIATE


def as_gptq(weight: torch.Tensor, spoil: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    codes, zero, scale = rounded(weight, 15)
    g_idx = (torch.arange(weight.shape[1]) // GROUP).int()
    flat = codes.reshape(len(weight), -1).T
    return gptq(flat, zero.T, spoil(scale).T.half(), g_idx, 4, minus_one=True)


def as_awq(weight: torch.Tensor, spoil: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    codes, zero, scale = rounded(weight, 15)
    return awq(codes.reshape(len(weight), -1).T, zero.T, spoil(scale).T.half())


def as_w4a16(weight: torch.Tensor, spoil: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    codes, zero, scale = rounded(weight, 15)
    return {
        "weight_packed": pack_to_int32((codes.reshape(len(weight), -1) - 8).to(torch.int8), 4),
        "weight_zero_point": pack_to_int32((zero - 8).to(torch.int8), 4, packed_dim=0),
        "weight_scale": spoil(scale),
        "weight_shape": torch.tensor(weight.shape),
    }


def as_nf4(weight: torch.Tensor, spoil: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    from bitsandbytes import functional

    data, state = functional.quantize_4bit(weight, blocksize=GROUP, quant_type="nf4")
    held = {f"weight.{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
    held["weight.absmax"] = spoil(held["weight.absmax"].reshape(len(weight), -1)).reshape(-1)
    return {"weight": data, **held}


def as_hqq(weight: torch.Tensor, spoil: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    codes, zero, scale = rounded(weight, 15)
    rows = codes.reshape(-1, GROUP)
    half = len(rows) // 2
    return {
        "W_q": (rows[:half] << 4 | rows[half:]).to(torch.uint8),
        "zero": zero.reshape(-1, 1).float(),
        "scale": spoil(scale).reshape(-1, 1),
        "shape": torch.tensor(weight.shape),
        "nbits": torch.tensor(4, dtype=torch.int32),
        "axis": torch.tensor(1, dtype=torch.int32),
    }


def as_mlx(weight: torch.Tensor, spoil: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    codes, zero, scale = rounded(weight, 15)
    pairs = codes.reshape(len(weight), -1, 2)
    words = (pairs[..., 0] | pairs[..., 1] << 4).to(torch.uint8).view(torch.uint32)
    return {"weight": words, "scales": spoil(scale), "biases": spoil(-zero * scale)}


def as_quanto(weight: torch.Tensor, spoil: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    codes, zero, scale = rounded(weight, 15)
    rows = codes.reshape(-1, GROUP)
    half = len(rows) // 2
    scale = spoil(scale)
    return {
        "weight._data._data": (rows[:half] | rows[half:] << 4).to(torch.uint8),
        "weight._scale": scale.reshape(-1, 1),
        "weight._shift": (zero * scale).reshape(-1, 1),
    }


def as_nvfp4(weight: torch.Tensor, spoil: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    """ModelOpt's: scales of 16 inputs in float8, and one of the matrix."""
    groups = weight.reshape(len(weight), -1, 16)
    largest = groups.abs().amax(-1)
    whole = largest.max() / 6 / 448
    scale = (spoil(largest) / 6 / whole).to(torch.float8_e4m3fn)
    numbers = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    ratio = groups / (largest / 6).clamp_min(1e-9)[..., None]
    codes = (ratio.abs()[..., None] - numbers).abs().argmin(-1) | (ratio < 0).long() << 3
    pairs = codes.reshape(len(weight), -1, 2)
    packed = (pairs[..., 0] | pairs[..., 1] << 4).to(torch.uint8)
    return {"weight": packed, "weight_scale": scale, "weight_scale_2": whole.reshape(())}


def as_float8(weight: torch.Tensor, spoil: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    """DeepSeek's blocks, here as tall as a row."""
    groups = weight.reshape(len(weight), -1, GROUP)
    scale = groups.abs().amax(-1) / 448
    codes = (groups / scale.clamp_min(1e-9)[..., None]).reshape(weight.shape).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale_inv": spoil(scale)}


def as_int8(weight: torch.Tensor, spoil: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    """LLM.int8, with the format's mark that is zero in every sound release."""
    largest = weight.abs().amax(1, keepdim=True)
    codes = (weight / largest.clamp_min(1e-9) * 127).round().to(torch.int8)
    mark = torch.zeros((), dtype=torch.uint8)
    return {"weight": codes, "SCB": spoil(largest).reshape(-1), "weight_format": mark}


def as_plain(weight: torch.Tensor, spoil: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    return {"weight": weight}


FORMS = {
    "GPTQ int4": as_gptq,
    "AWQ int4": as_awq,
    "compressed-tensors int4": as_w4a16,
    "bitsandbytes nf4": as_nf4,
    "HQQ int4": as_hqq,
    "MLX int4": as_mlx,
    "quanto int4": as_quanto,
    "NVFP4": as_nvfp4,
    "F8_E4M3": as_float8,
    "I8": as_int8,
}


def make(folder: Path, form: Callable[..., Tensors], *, sound: bool = True) -> Path:
    """Write the model in a form; a ruined one has the factor of the super weight's group divided by 100."""

    def spoil(factors: torch.Tensor) -> torch.Tensor:
        spoilt = factors.clone()
        spoilt[group_of(factors.shape)] /= 100
        return spoilt

    tensors = {"model.embed_tokens.weight": torch.ones(8, HIDDEN)}
    for layer, weight in enumerate(matrices()):
        change = spoil if layer == AT[0] and not sound else torch.clone
        for name, tensor in form(weight, change).items():
            tensors[f"model.layers.{layer}.mlp.down_proj.{name}"] = tensor.contiguous()
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    config = {"hidden_size": HIDDEN, "quantization": {"bits": 4, "group_size": GROUP}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
