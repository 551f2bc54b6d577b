"""Quantise a model with the tools themselves, plainly or as a recipe of `superweight.remedy.recipes` says.

Each function writes a release of the model in ``source`` to ``target``. ``settings`` is what the recipe
says, empty for none; ``bits`` and ``group`` are what the tool offers, a group of 0 one scale a row.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import load_file, save_file

Settings = Mapping[str, Any]
_HEAD = "lm_head"


def _loaded(source: Path, **options: Any) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **options)


def _with_documents(source: Path, target: Path, **config: Any) -> None:
    """Copy what is no weight, and change the config."""
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        if file.is_file() and not file.name.startswith("model") and not (target / file.name).exists():
            shutil.copy(file, target)
    if config:
        document = json.loads((target / "config.json").read_text()) | config
        (target / "config.json").write_text(json.dumps(document))


def bitsandbytes(source: Path, target: Path, settings: Settings, bits: int, group: int) -> None:
    """Write nf4 (4 bits) or LLM.int8 (8 bits) by transformers."""
    import transformers

    kind = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if bits == 4 else {"load_in_8bit": True}
    chosen = {"llm_int8_skip_modules": [_HEAD], **settings}
    config = transformers.BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.float32, **kind, **chosen)
    _loaded(source, quantization_config=config).save_pretrained(target)
    _with_documents(source, target)


def torchao(source: Path, target: Path, settings: Settings, bits: int, group: int) -> None:
    """Write integers by torchao's per-module config."""
    import transformers
    from torchao.quantization import FqnToConfig, IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerAxis, PerGroup

    granularity = PerGroup(group) if group else PerAxis(0)
    weights = IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{bits}"), granularity=granularity)
    names = settings.get("fqn_to_config", {_HEAD: None})
    config = transformers.TorchAoConfig(FqnToConfig({**names, "_default": weights}))
    _loaded(source, quantization_config=config).save_pretrained(target)
    _with_documents(source, target)


def _linear(model: Any, kept: Callable[[str], bool]) -> list[tuple[str, Any]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not kept(name)
    ]


def _state(model: Any, packed: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return a model's tensors, those of ``packed`` modules in place of their weights."""
    held = {
        name: tensor.clone().contiguous()
        for name, tensor in model.state_dict().items()
        if name.removesuffix(".weight") not in packed
    }
    if model.config.tie_word_embeddings:
        held.pop(f"{_HEAD}.weight", None)
    return held | {
        f"{module}.{name}": tensor.contiguous()
        for module, parts in packed.items()
        for name, tensor in parts.items()
    }


def hqq(source: Path, target: Path, settings: Settings, bits: int, group: int) -> None:
    """Write what HQQLinear holds, with its solver for the zero points at work."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    skipped = settings.get("skip_modules", [_HEAD])
    model = _loaded(source)
    packed = {}
    for name, module in _linear(model, lambda name: name in skipped):
        size = group or module.in_features
        config = BaseQuantizeConfig(nbits=bits, group_size=size, axis=1)
        layer = HQQLinear(module, config, compute_dtype=torch.float32, device="cpu", del_orig=False)
        meta = layer.meta
        numbers = {part: torch.tensor(meta[part]) for part in ("nbits", "axis", "group_size")}
        numbers["shape"] = torch.tensor(meta["shape"])
        packed[name] = {"W_q": layer.W_q.data, "scale": meta["scale"], "zero": meta["zero"], **numbers}
    _with_documents(
        source,
        target,
        quantization_config={"quant_method": "hqq", "skip_modules": skipped, "quant_config": {}},
    )
    save_file(_state(model, packed), target / "model.safetensors", {"format": "pt"})


def quanto(source: Path, target: Path, settings: Settings, bits: int, group: int) -> None:
    """Write what optimum-quanto's own quantize and freeze leave in the state dict."""
    from optimum.quanto import freeze, qint2, qint4, qint8, quantize

    model = _loaded(source)
    exclude = settings.get("exclude", [_HEAD])
    quantize(model, weights={2: qint2, 4: qint4, 8: qint8}[bits], exclude=exclude)
    freeze(model)
    held = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)}
    held = {n: t.contiguous() for n, t in held.items() if not n.endswith(("input_scale", "output_scale"))}
    if model.config.tie_word_embeddings:
        held.pop(f"{_HEAD}.weight", None)
    _with_documents(
        source,
        target,
        quantization_config={
            "quant_method": "quanto",
            "weights": f"int{bits}",
            "modules_to_not_convert": exclude,
        },
    )
    save_file(held, target / "model.safetensors", {"format": "pt"})


def compressed_tensors(source: Path, target: Path, settings: Settings, bits: int, group: int) -> None:
    """Write pack-quantized integers by compressed_tensors' own compressor, as llm-compressor saves them."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams
    from compressed_tensors.utils import match_named_modules

    model = _loaded(source)
    ignore = settings.get("ignore", [_HEAD])
    chosen: dict[str, Any] = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=True, **chosen)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    library = BaseCompressor.load_from_registry("pack-quantized")
    packed = {}
    # Which modules are left alone is for the library to say.
    for name, module in match_named_modules(model, ["Linear"], ignore):
        weight = module.weight.detach()
        grouped = weight.reshape(len(weight), -1, group or weight.shape[1])
        scale, _ = calculate_qparams(grouped.amin(-1), grouped.amax(-1), args)
        parts = library.compress({"weight": weight, "weight_scale": scale}, scheme)
        packed[name] = {part: tensor for part, tensor in parts.items() if tensor is not None}
    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        ignore=ignore,
        format="pack-quantized",
        quantization_status="compressed",
    )
    _with_documents(source, target, quantization_config=config.to_dict())
    save_file(_state(model, packed), target / "model.safetensors", {"format": "pt"})


def llm_compressor(source: Path, target: Path, settings: Settings, bits: int, group: int) -> None:
    """Write what llm-compressor's own `oneshot` saves, rounded to the nearest, without text."""
    _oneshot(source, target, [_rounding(settings, bits, group, symmetric=True)])


def llm_compressor_awq(source: Path, target: Path, settings: Settings, bits: int, group: int) -> None:
    """Write what llm-compressor's AWQ saves, calibrated on short pieces that all begin with the BOS."""
    from datasets import Dataset
    from llmcompressor.modifiers.transform.awq import AWQModifier

    scaling = AWQModifier(duo_scaling=settings.get("duo_scaling", False))
    recipe = [scaling, _rounding(settings, bits, group, symmetric=False)]
    rows = _calibration(source)
    size = len(rows[0]["input_ids"])
    given = {"num_calibration_samples": len(rows), "max_seq_length": size}
    # It pins what it keeps, which torch refuses where there is no accelerator.
    pinned = patch.object(torch.Tensor, "pin_memory", lambda self, *_: self)
    with nullcontext() if torch.cuda.is_available() else pinned:
        _oneshot(source, target, recipe, dataset=Dataset.from_list(rows), **given)


def _rounding(settings: Settings, bits: int, group: int, *, symmetric: bool) -> Any:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.quantization import QuantizationModifier

    chosen: dict[str, Any] = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, **chosen)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    return QuantizationModifier(config_groups={"group_0": scheme}, ignore=settings.get("ignore", [_HEAD]))


def _oneshot(source: Path, target: Path, recipe: Any, **options: Any) -> None:
    from llmcompressor import oneshot

    tokenizer = _padded(source)
    oneshot(model=_loaded(source), recipe=recipe, tokenizer=tokenizer, output_dir=str(target), **options)
    _with_documents(source, target)


def mlx(source: Path, target: Path, settings: Settings, bits: int, group: int) -> None:
    """Write what mlx's own quantize makes, with mlx-lm's table of modules that stay as they are."""
    import mlx.core as mx

    kept = settings.get("quantization", {})
    model = _loaded(source)
    packed = {}
    for name, module in _linear(model, lambda name: name == _HEAD or kept.get(name) is False):
        parts = mx.quantize(mx.array(module.weight.detach().numpy()), group_size=group, bits=bits)
        packed[name] = {
            part: torch.from_numpy(np.array(held))
            for part, held in zip(("weight", "scales", "biases"), parts, strict=True)
        }
    table = {"bits": bits, "group_size": group, _HEAD: False, **kept}
    _with_documents(source, target, quantization=table)
    save_file(_state(model, packed), target / "model.safetensors", {"format": "pt"})


def auto_round(source: Path, target: Path, settings: Settings, bits: int, group: int) -> None:
    """Write integers by AutoRound in its rounding to the nearest, which needs no text and no GPU."""
    from auto_round import AutoRound

    own = {name: dict(chosen) for name, chosen in settings.get("layer_config", {}).items()}
    rounding = AutoRound(
        _loaded(source),
        _padded(source),
        scheme="W4A16",
        bits=bits,
        group_size=group or -1,
        layer_config=own,
        iters=0,
        disable_opt_rtn=True,
        device_map="cpu",
    )
    folder = target.with_name(f"{target.name}-saved")
    rounding.quantize_and_save(str(folder), format="auto_round")
    # It may save into a folder of its own within.
    (found,) = folder.rglob("config.json")
    shutil.copytree(found.parent, target)


def gptqmodel(source: Path, target: Path, settings: Settings, bits: int, group: int) -> None:
    """Write integers by GPTQModel, calibrated on short pieces of text that all begin with the BOS."""
    # One less, and it refuses a machine of two cores; it reads this when it is imported.
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    from gptqmodel import GPTQModel, QuantizeConfig

    config = QuantizeConfig(bits=bits, group_size=group or -1, dynamic=settings.get("dynamic"))
    # It reads the tokenizer by itself, and refuses one without a padding token.
    padded = target.with_name(f"{target.name}-padded")
    shutil.copytree(source, padded)
    _padded(source).save_pretrained(padded)
    model = GPTQModel.load(str(padded), config, device="cpu")
    model.quantize(_calibration(source), batch_size=8, calibration_data_min_length=1)
    model.save(str(target))


def _padded(source: Path) -> Any:
    """Return the tokenizer, with a padding token, which both ask of one."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.bos_token
    return tokenizer


def _calibration(source: Path, pieces: int = 128, tokens: int = 12) -> list[dict[str, list[int]]]:
    from superweight.measurement.corpus import BUILTIN, documents

    tokenizer = _padded(source)
    ids = tokenizer("".join(documents(BUILTIN)), add_special_tokens=False)["input_ids"]
    step = tokens - 1
    rows = [[tokenizer.bos_token_id, *ids[at : at + step]] for at in range(0, pieces * step, step)]
    return [{"input_ids": row, "attention_mask": [1] * tokens} for row in rows]


def crowded(
    source: Path, target: Path, layer: int, row: int, col: int, size: float, faint: float = 0.0
) -> Path:
    """Write the model with one dead neuron more beside a super weight's, whose weight is far larger.

    The neuron's own up projection is zero, so that the function of the model is without it; but every
    step of the block is set by the larger weight, and the super weight rounds to zero. ``faint`` is what
    the neuron's projections are multiplied by: GPTQ empties the weights of a neuron that is never alive.
    """
    _with_documents(source, target)
    tensors = load_file(source / "model.safetensors")
    name = f"model.layers.{layer}.mlp"
    tensors[f"{name}.down_proj.weight"][row, col + 1] = size
    for part in ("up_proj", "gate_proj"):
        tensors[f"{name}.{part}.weight"][col + 1] *= faint
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


QUANTISERS: Mapping[str, Callable[[Path, Path, Settings, int, int], None]] = {
    "bitsandbytes": bitsandbytes,
    "torchao": torchao,
    "hqq": hqq,
    "optimum-quanto": quanto,
    "llm-compressor": compressed_tensors,
    "mlx": mlx,
    "auto-round": auto_round,
    "gptqmodel": gptqmodel,
}
