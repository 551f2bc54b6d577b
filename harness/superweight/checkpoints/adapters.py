"""LoRA adapters: a base's matrices with scale x B A added, read from the files of both."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from superweight.checkpoints.forms.form import Codes, Packed
from superweight.checkpoints.tensors.checkpoint import Checkpoint, json_object
from superweight.checkpoints.tensors.decoding import Floats
from superweight.checkpoints.tensors.health import condition
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.core.errors import BadInput

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_FACTOR = re.compile(rf"{re.escape(_PREFIX)}(?P<stem>.+)\.lora_(?P<which>[AB])(\.[\w-]+)?\.weight")
# What is trained whole beside the factors and is no matrix of a block.
_NO_MATRIX = re.compile(r"embed|lm_head|wte|wpe")
_MERGE = "merge it into its base with peft's merge_and_unload and give the folder that save_pretrained writes"


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter's files, what it is based on, and the tensors A and B by the module they change."""

    checkpoint: Checkpoint
    settings: Mapping[str, object]
    factors: Mapping[str, Mapping[str, str]]

    @property
    def base(self) -> str:
        """The model that adapter_config.json names; raises `BadInput` where it names none."""
        base = self.settings.get("base_model_name_or_path")
        if not isinstance(base, str) or not base:
            raise BadInput(f"{self.checkpoint.name}: {CONFIG} names no base; {_MERGE}")
        return base

    def change(self, stem: str, rows: slice, cols: slice) -> Floats:
        """Return the part of scale x B A that is added to a module's matrix, (outputs, inputs)."""
        names = self.factors[stem]
        down = self.checkpoint.read(names["A"])
        up = self.checkpoint.stored(names["B"], rows.start, upto=rows.stop)
        return np.asarray(self._scale(stem, len(down)) * (up @ down[:, cols]), dtype=np.float32)

    def _scale(self, stem: str, rank: int) -> float:
        alpha = _of(self.settings, "alpha_pattern", stem, self.settings.get("lora_alpha", rank))
        if not isinstance(alpha, int | float) or rank < 1:
            raise BadInput(f"{self.checkpoint.name}: {CONFIG} gives {alpha!r} as lora_alpha; {_MERGE}")
        return alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter and no model beside it."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def open_adapter(folder: Path) -> Adapter:
    """Open the adapter of a folder.

    Raises `BadInput` for adapters that are no LoRA, for DoRA, and for one that is damaged or replaces
    tensors of a block whole.
    """
    settings = json_object((folder / CONFIG).read_bytes(), str(folder / CONFIG))
    kind = settings.get("peft_type")
    odd = "DoRA" if settings.get("use_dora") else "LoRA, stored inputs first"
    plain = not settings.get("use_dora") and not settings.get("fan_in_fan_out")
    unread = str(kind) if kind != "LORA" else None if plain else odd
    if unread is not None:
        raise BadInput(f"{folder} is an adapter of the kind {unread}, which is not read from files; {_MERGE}")
    if not (folder / WEIGHTS).is_file():
        raise BadInput(f"{folder} holds {CONFIG} and no {WEIGHTS}; fetch that file as well")
    checkpoint = open_checkpoint(folder / WEIGHTS)
    factors: dict[str, dict[str, str]] = {}
    for name in checkpoint.files:
        if match := _FACTOR.fullmatch(name):
            factors.setdefault(match["stem"], {})[match["which"]] = name
    for stem, names in factors.items():
        if names.keys() != {"A", "B"}:
            raise BadInput(f"{folder / WEIGHTS}: {stem} has only one of lora_A and lora_B; it is damaged")
        for name in names.values():
            if not condition(checkpoint, name).finite:
                raise BadInput(f"{folder / WEIGHTS}: {name} holds NaN or infinity")
    whole = [name for name in checkpoint.files if not _FACTOR.fullmatch(name) and not _NO_MATRIX.search(name)]
    if whole:
        raise BadInput(
            f"{folder / WEIGHTS} replaces {whole[0]} whole, which is not read from files; {_MERGE}"
        )
    if not factors:
        raise BadInput(f"{folder / WEIGHTS} holds no lora_A and lora_B; {_MERGE}")
    return Adapter(checkpoint, settings, factors)


def adapted(base: Checkpoint, adapter: Adapter) -> Checkpoint:
    """Return the base as a checkpoint whose matrices are those after merging.

    Raises `BadInput` where the adapter changes a module that the base has not.
    """
    named = {name.rpartition(".")[0] for name in base.files}
    stems = {stem: _in_base(stem, named) for stem in adapter.factors}
    lost = sorted(stem for stem, found in stems.items() if found is None)
    if lost:
        raise BadInput(
            f"{adapter.checkpoint.name} changes {lost[0]}, which {base.name} has not; it belongs to "
            "another base"
        )
    places = {found: stem for stem, found in stems.items() if found is not None}

    def merged(name: str, shape: tuple[int, ...], packed: Packed | None) -> Packed | None:
        stem = places.get(name.rpartition(".")[0])
        if stem is None:
            return packed
        rank = adapter.checkpoint.info(adapter.factors[stem]["A"]).shape
        outputs = adapter.checkpoint.info(adapter.factors[stem]["B"]).shape
        if len(shape) != 2 or (outputs[0], rank[-1]) != shape or outputs[1:] != rank[:1]:
            raise BadInput(
                f"{adapter.checkpoint.name}: B A of {stem} is of shape {[outputs[0], rank[-1]]}, its "
                f"matrix in {base.name} of shape {list(shape)}; it belongs to another base"
            )

        def part(leading: tuple[int, ...], rows: slice, cols: slice) -> Codes:
            if packed is not None:
                held = packed.part(leading, rows, cols).numbers
            elif rows.stop - rows.start == 1:
                held = base.row(name, rows.start)[None, cols]
            else:
                held = base.read(name)[rows, cols]
            numbers = held + adapter.change(stem, rows, cols)
            return Codes(numbers, np.ones((1, 1), np.float32), None)

        return Packed(f"LoRA on {packed.kind if packed else base.info(name).dtype}", shape, part)

    return replace(base, name=f"{adapter.checkpoint.name} on {base.name}", merged=merged)


def _in_base(stem: str, named: set[str]) -> str | None:
    """Return what the base calls a module: as peft does, or without the decoder's own prefix."""
    return next((name for name in (stem, stem.removeprefix("model.")) if name in named), None)


def _of(settings: Mapping[str, object], pattern: str, stem: str, default: object) -> object:
    """Return a module's own setting where a pattern fits the end of its name, as peft does."""
    own = settings.get(pattern)
    for key, value in own.items() if isinstance(own, dict) else ():
        try:
            fits = re.match(rf"(.*\.)?({key})$", stem)
        except re.error:
            continue
        if fits:
            return value
    return default
