"""Write down, for each quantiser, how it is told to leave modules alone: a recipe that can be pasted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from superweight.core.errors import BadInput

_HEAD = "lm_head"


@dataclass(frozen=True)
class Protected:
    """One module that keeps its precision: its path in transformers, and its tensor in GGUF."""

    module: str
    gguf: str


@dataclass(frozen=True)
class Recipe:
    """What a tool is told: text to paste, and the same as JSON for scripts."""

    text: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Tool:
    """A quantiser: its name, where its option is documented, and what writes its recipe.

    ``bits`` are those of its usual setting, which the cost is reckoned against; ``kept`` the bits of a
    number that is left alone. ``caution`` is what a reader of the recipe must know besides.
    """

    name: str
    source: str
    recipe: Callable[[Sequence[Protected]], Recipe]
    bits: float = 4.5
    kept: int = 16
    caution: str = ""


def _names(modules: Sequence[Protected]) -> list[str]:
    return [item.module for item in modules]


def _listed(names: Sequence[str]) -> str:
    return json.dumps(list(names))


def _llama_cpp(modules: Sequence[Protected]) -> Recipe:
    # llama-quantize searches a tensor's name for the pattern, so that dots must be dots.
    pairs = [f"{re.escape(item.gguf)}=f16" for item in modules]
    options = " ".join(f"--tensor-type '{pair}'" for pair in pairs)
    return Recipe(f"llama-quantize {options} model-f16.gguf model-q4_k_m.gguf Q4_K_M", {"tensor_type": pairs})


def _llm_compressor(modules: Sequence[Protected]) -> Recipe:
    ignore = [_HEAD, *_names(modules)]
    text = (
        "from llmcompressor import oneshot\n"
        "from llmcompressor.modifiers.quantization import QuantizationModifier\n\n"
        f'recipe = QuantizationModifier(targets="Linear", scheme="W4A16", ignore={_listed(ignore)})\n'
        "oneshot(model=model, recipe=recipe)"
    )
    return Recipe(text, {"ignore": ignore})


def _gptqmodel(modules: Sequence[Protected]) -> Recipe:
    dynamic: dict[str, dict[str, int]] = {f"-:^{re.escape(name)}$": {} for name in _names(modules)}
    text = (
        "from gptqmodel import QuantizeConfig\n\n"
        f"config = QuantizeConfig(bits=4, group_size=128, dynamic={dynamic!r})"
    )
    return Recipe(text, {"dynamic": dynamic})


def _auto_round(modules: Sequence[Protected]) -> Recipe:
    own = {name: {"bits": 16} for name in _names(modules)}
    text = (
        "from auto_round import AutoRound\n\n"
        f'rounding = AutoRound(model, tokenizer, scheme="W4A16", layer_config={json.dumps(own)})\n'
        'rounding.quantize_and_save("out")'
    )
    return Recipe(text, {"layer_config": own})


def _auto_awq(modules: Sequence[Protected]) -> Recipe:
    # AutoAWQ 0.2.9 looks for names within a block: one of the whole model leaves nothing alone, and one of
    # a block stops it (KeyError), because its search for scales asks for what that module reads.
    ignore = [_HEAD, *_names(modules)]
    text = (
        "from llmcompressor import oneshot\n"
        "from llmcompressor.modifiers.quantization import QuantizationModifier\n"
        "from llmcompressor.modifiers.transform.awq import AWQModifier\n\n"
        f'rounding = QuantizationModifier(targets="Linear", scheme="W4A16_ASYM", ignore={_listed(ignore)})\n'
        # With duo_scaling 0.14 divides by zero where all that reads a module's output is ignored.
        "oneshot(model=model, dataset=calibration, recipe=[AWQModifier(duo_scaling=False), rounding])"
    )
    return Recipe(text, {"ignore": ignore, "duo_scaling": False})


def _bitsandbytes(modules: Sequence[Protected]) -> Recipe:
    names = [_HEAD, *_names(modules)]
    text = (
        "from transformers import AutoModelForCausalLM, BitsAndBytesConfig\n\n"
        f"config = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules={_listed(names)})\n"
        "model = AutoModelForCausalLM.from_pretrained(path, quantization_config=config)"
    )
    return Recipe(text, {"llm_int8_skip_modules": names})


def _torchao(modules: Sequence[Protected]) -> Recipe:
    names = [_HEAD, *_names(modules)]
    own = ", ".join(f'"{name}": None' for name in names)
    text = (
        "import torch\n"
        "from torchao.quantization import FqnToConfig, IntxWeightOnlyConfig\n"
        "from torchao.quantization.granularity import PerGroup\n"
        "from transformers import AutoModelForCausalLM, TorchAoConfig\n\n"
        "weights = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))\n"
        f'config = TorchAoConfig(FqnToConfig({{{own}, "_default": weights}}))\n'
        "model = AutoModelForCausalLM.from_pretrained(path, quantization_config=config)"
    )
    return Recipe(text, {"fqn_to_config": dict.fromkeys(names)})


def _hqq(modules: Sequence[Protected]) -> Recipe:
    names = [_HEAD, *_names(modules)]
    text = (
        "from transformers import AutoModelForCausalLM, HqqConfig\n\n"
        f"config = HqqConfig(nbits=4, group_size=64, skip_modules={_listed(names)})\n"
        "model = AutoModelForCausalLM.from_pretrained(path, quantization_config=config)"
    )
    return Recipe(text, {"skip_modules": names})


def _quanto(modules: Sequence[Protected]) -> Recipe:
    names = [_HEAD, *_names(modules)]
    text = (
        "from optimum.quanto import freeze, qint4, quantize\n\n"
        f"quantize(model, weights=qint4, exclude={_listed(names)})\n"
        "freeze(model)"
    )
    return Recipe(text, {"exclude": names})


def _mlx(modules: Sequence[Protected]) -> Recipe:
    names = _names(modules)
    text = (
        "from mlx_lm import convert\n\n"
        f"kept = set({_listed(names)})\n"
        'convert(path, "out", quantize=True, q_bits=4, q_group_size=64,\n'
        '        quant_predicate=lambda name, module: name not in kept and hasattr(module, "to_quantized"))'
    )
    return Recipe(text, {"quantization": dict.fromkeys(names, False)})


TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(
            "llama.cpp",
            "https://github.com/ggml-org/llama.cpp/blob/master/tools/quantize/README.md",
            _llama_cpp,
            bits=4.85,
            caution="needs a llama-quantize that takes --tensor-type (April 2025 or later)",
        ),
        Tool("llm-compressor", "https://docs.vllm.ai/projects/llm-compressor", _llm_compressor, bits=4.125),
        Tool("gptqmodel", "https://github.com/ModelCloud/GPTQModel", _gptqmodel, bits=4.15),
        Tool("auto-round", "https://github.com/intel/auto-round", _auto_round, bits=4.15),
        Tool(
            "auto-awq",
            "https://docs.vllm.ai/projects/llm-compressor",
            _auto_awq,
            bits=4.15,
            caution="AutoAWQ 0.2.9 itself cannot leave one module alone; llm-compressor has its method",
        ),
        Tool(
            "bitsandbytes",
            "https://huggingface.co/docs/transformers/main_classes/quantization",
            _bitsandbytes,
            bits=4.5,
        ),
        Tool("torchao", "https://huggingface.co/docs/transformers/quantization/torchao", _torchao, bits=5.0),
        Tool("hqq", "https://huggingface.co/docs/transformers/quantization/hqq", _hqq, bits=4.5),
        Tool("optimum-quanto", "https://github.com/huggingface/optimum-quanto", _quanto, bits=4.25),
        Tool("mlx", "https://github.com/ml-explore/mlx-lm", _mlx, bits=4.5),
    )
}
_ALSO = {
    "compressed-tensors": "llm-compressor",
    "awq": "auto-awq",
    "autoawq": "auto-awq",
    "gptq": "gptqmodel",
}
_ALSO |= {
    "autoround": "auto-round",
    "quanto": "optimum-quanto",
    "llamacpp": "llama.cpp",
    "bnb": "bitsandbytes",
}


def tool(name: str) -> Tool:
    """Return the tool of a name, or of another that it goes by.

    >>> tool("GPTQModel").name
    'gptqmodel'

    Raises `BadInput`, naming those that are known.
    """
    asked = name.lower()
    found = TOOLS.get(_ALSO.get(asked, asked))
    if found is None:
        raise BadInput(f"--for {name}: no recipe for that tool is known; give one of {', '.join(TOOLS)}")
    return found
