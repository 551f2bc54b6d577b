"""Add a module to the list of what a packed release leaves unquantised, in the words of its form."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from superweight.core.errors import BadInput

Settings = dict[str, Any]
# A module that its quantiser leaves alone where its list is empty; a list of one's own replaces it.
_HEAD = "lm_head"


def _in_list(name: str, *default: str) -> Callable[[Settings, str], None]:
    def add(settings: Settings, module: str) -> None:
        held = settings.get(name)
        settings[name] = list(dict.fromkeys([*(default if held is None else held), module]))

    return add


def _dynamic(settings: Settings, module: str) -> None:
    # "-:" before a pattern skips what it matches from the beginning of its name: GPTQModel, and vLLM's
    # get_dynamic_override (docs.vllm.ai, quantization/utils/gptq_utils).
    settings["dynamic"] = {**(settings.get("dynamic") or {}), f"-:^{re.escape(module)}$": {}}


def _own_bits(settings: Settings, module: str) -> None:
    # AutoRound leaves unpacked what has more than 8 bits (auto_round/inference/convert_model.py).
    own = {"bits": 16, "act_bits": 16, "data_type": "float"}
    settings["extra_config"] = {**(settings.get("extra_config") or {}), module: own}


# By quant_method. What has no list is refused.
_LISTS: Mapping[str, Callable[[Settings, str], None]] = {
    "compressed-tensors": _in_list("ignore"),
    "gptq": _dynamic,
    "auto-round": _own_bits,
    "awq": _in_list("modules_to_not_convert"),
    "bitsandbytes": _in_list("llm_int8_skip_modules", _HEAD),
    "fp8": _in_list("modules_to_not_convert", _HEAD),
    "fbgemm_fp8": _in_list("modules_to_not_convert", _HEAD),
    "modelopt": _in_list("ignore"),
    "hqq": _in_list("skip_modules", _HEAD),
    "quanto": _in_list("modules_to_not_convert", _HEAD),
}
# Files beside config.json in which some quantisers repeat what it says.
BESIDE = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
_MLX = ("quantization", "quantization_config")


def with_unquantised(config: Mapping[str, Any], module: str) -> dict[str, Any]:
    """Return a config.json in which ``module`` counts as unquantised.

    >>> with_unquantised({"quantization_config": {"quant_method": "awq"}}, "m")["quantization_config"]
    {'quant_method': 'awq', 'modules_to_not_convert': ['m']}

    Raises `BadInput`, naming the form, where it has no such list.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(config))
    # mlx-lm asks its table for a module by name before it packs it, and takes False for "not this one".
    mlx = [name for name in _MLX if _is_mlx(changed.get(name))]
    for name in mlx:
        changed[name][module] = False
    if mlx:
        return changed
    for place in (changed, changed.get("text_config")):
        settings = place.get("quantization_config") if isinstance(place, dict) else None
        if isinstance(settings, dict):
            _method(settings)(settings, module)
            return changed
    raise BadInput(
        f"config.json has no quantization_config, so nowhere to say that {module} is stored unquantised; "
        "give the release with the config.json that its quantiser wrote"
    )


def beside_unquantised(
    document: Mapping[str, Any], config: Mapping[str, Any], modules: Sequence[str]
) -> dict[str, Any]:
    """Return one of the files `BESIDE` a config.json, in which ``modules`` count as unquantised as well."""
    changed: dict[str, Any] = copy.deepcopy(dict(document))
    own = changed.get("quantization")
    for module in modules:
        if isinstance(own, dict):  # ModelOpt's
            own["exclude_modules"] = [*(own.get("exclude_modules") or []), module]
        else:
            settings = config.get("quantization_config")
            method = str(settings.get("quant_method", "")) if isinstance(settings, Mapping) else ""
            _LISTS.get(method, _in_list("modules_to_not_convert"))(changed, module)
    return changed


def _is_mlx(settings: Any) -> bool:
    return isinstance(settings, dict) and "bits" in settings and "quant_method" not in settings


def _method(settings: Settings) -> Callable[[Settings, str], None]:
    method = str(settings.get("quant_method", ""))
    if not method and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        method = "bitsandbytes"
    if method not in _LISTS:
        raise BadInput(
            f"{method or 'a packing without quant_method'} has no list of modules that stay unquantised, "
            f"or none known here (known: {', '.join(sorted(_LISTS))}, mlx); quantise the base anew"
        )
    return _LISTS[method]
