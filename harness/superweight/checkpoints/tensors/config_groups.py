"""Read the block lengths of quantised tensors from config.json."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping


def weight_settings(config: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    """Return what compressed-tensors' ``config_groups`` say of a weight, the group that names it first.

    ``name`` is the weight's tensor. A group that names modules by kind ("Linear") comes after one that
    names this module, and one that names other modules comes last.
    """
    groups = quantisation(config).get("config_groups")
    found = (
        [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
    )
    ordered = sorted(found, key=lambda group: _distance(group.get("targets"), name.rpartition(".")[0]))
    return [group["weights"] for group in ordered if isinstance(group.get("weights"), dict)]


def quantisation(config: Mapping[str, object]) -> Mapping[str, object]:
    """Return the part of config.json that tells how the weights are quantised, empty where there is none."""
    for place in (config, config.get("text_config")):
        settings = place.get("quantization_config") if isinstance(place, Mapping) else None
        if isinstance(settings, dict):
            return settings
    return {}


def block_shapes(config: Mapping[str, object], name: str) -> Iterator[tuple[int, ...]]:
    """Return the shapes that blocks of a weight may have, the likeliest last.

    They are DeepSeek's ``weight_block_size``, and ``block_structure`` and ``group_size`` of
    compressed-tensors and ModelOpt.
    """
    settings = quantisation(config)
    for said in (settings, *reversed(weight_settings(config, name))):
        for block in (said.get("weight_block_size"), said.get("block_structure")):
            if isinstance(block, list) and block and all(type(item) is int and item > 0 for item in block):
                yield tuple(block)
        size = said.get("group_size")
        if type(size) is int and size > 0:
            yield (1, size)


def _distance(targets: object, module: str) -> int:
    names = targets if isinstance(targets, list) else []
    for target in names:
        pattern = str(target)
        if pattern == module or (pattern.startswith("re:") and _matches(pattern[3:], module)):
            return 0
    return 1 if "Linear" in names else 2


def _matches(pattern: str, module: str) -> bool:
    try:
        return re.match(pattern, module) is not None
    except re.error:
        return False
