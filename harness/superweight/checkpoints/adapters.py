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
from superweight.checkpoints.tensors.gguf_names import plain_name
from superweight.checkpoints.tensors.health import condition
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.core.errors import BadInput

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_FACTOR = re.compile(rf"{re.escape(_PREFIX)}(?P<stem>.+)\.lora_(?P<which>[AB])(\.[\w-]+)?\.weight")
# DoRA's length of each row.
_LENGTHS = re.compile(rf"{re.escape(_PREFIX)}(?P<stem>.+)\.lora_magnitude_vector(\.[\w-]+)?(\.weight)?")
# What is trained whole beside the factors and is no matrix of a block.
_NO_MATRIX = re.compile(r"embed|lm_head|wte|wpe")
# What follows a module's name in the tensor that holds its numbers or their codes.
_CODES = re.compile(r"\.(weight(\._data)*|weight_packed|qweight|W_q|_weight_qdata|bias)$")
_LORA = re.compile(r"\.lora_")
# What llama.cpp writes with its rows in another order.
_REORDERED = re.compile(r"\.[qk]_proj\.")
_MERGE = "merge it into its base with peft's merge_and_unload and give the folder that save_pretrained writes"


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter's files, what it is based on, and the tensors A and B by the module they change.

    ``lengths`` holds the tensor of every row's length by the module, for DoRA. ``beside`` are the
    tensors that replace an embedding or a head, or change it.
    """

    folder: Path
    checkpoint: Checkpoint
    settings: Mapping[str, object]
    factors: Mapping[str, Mapping[str, str]]
    lengths: Mapping[str, str]
    beside: tuple[str, ...]

    @property
    def base(self) -> str:
        """The model that adapter_config.json names; raises `BadInput` where it names none."""
        base = self.settings.get("base_model_name_or_path")
        if not isinstance(base, str) or not base:
            raise BadInput(f"{self.checkpoint.name}: {CONFIG} names no base; {_MERGE}")
        return base

    def merged(self, stem: str, held: Floats, rows: slice) -> Floats:
        """Return whole rows of a module's matrix, (outputs, inputs), after merging."""
        names = self.factors[stem]
        down = self.checkpoint.read(names["A"])
        up = self.checkpoint.stored(names["B"], rows.start, upto=rows.stop).astype(np.float32)
        changed = held + np.float32(self._scale(stem, len(down))) * (up @ down)
        if stem in self.lengths:
            wanted = self.checkpoint.read(self.lengths[stem]).reshape(-1)[rows]
            length = np.linalg.norm(changed, axis=1)
            changed = changed * (wanted / length)[:, None]
        return np.asarray(changed, dtype=np.float32)

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

    Raises `BadInput` for adapters that are no LoRA or DoRA, and for one that is damaged or replaces
    tensors of a block whole.
    """
    settings = json_object((folder / CONFIG).read_bytes(), str(folder / CONFIG))
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise BadInput(f"{folder} is an adapter of the kind {kind}, which is not read from files; {_MERGE}")
    if not (folder / WEIGHTS).is_file():
        raise BadInput(f"{folder} holds {CONFIG} and no {WEIGHTS}; fetch that file, or {_MERGE}")
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
    lengths = {match["stem"]: name for name in checkpoint.files if (match := _LENGTHS.fullmatch(name))}
    if bool(settings.get("use_dora")) != bool(lengths) or lengths.keys() - factors.keys():
        raise BadInput(
            f"{folder / WEIGHTS}: its lora_magnitude_vector and use_dora of {CONFIG} do not go together; "
            "fetch both files again"
        )
    beside = [
        name for name in checkpoint.files if not _FACTOR.fullmatch(name) and name not in lengths.values()
    ]
    whole = [name for name in beside if not _NO_MATRIX.search(name)]
    if whole:
        raise BadInput(
            f"{folder / WEIGHTS} replaces {whole[0]} whole, which is not read from files; {_MERGE}"
        )
    if not factors:
        raise BadInput(f"{folder / WEIGHTS} holds no lora_A and lora_B; {_MERGE}")
    return Adapter(folder, checkpoint, settings, factors, lengths, tuple(beside))


def adapted(base: Checkpoint, adapter: Adapter) -> Checkpoint:
    """Return the base as a checkpoint whose matrices are those after merging.

    Raises `BadInput` where the adapter changes a module that the base has not.
    """
    called = {name: plain_name(name) if base.is_gguf else name for name in base.files}
    named = {_CODES.sub("", name) for name in called.values()}
    stems = {stem: _in_base(stem, named) for stem in adapter.factors}
    lost = sorted(stem for stem, found in stems.items() if found is None)
    if lost:
        raise BadInput(
            f"{adapter.checkpoint.name} changes {lost[0]}, which {base.name} has not; it belongs to "
            "another base"
        )
    places = {found: stem for stem, found in stems.items() if found is not None}
    whole = set(called.values())
    replaced = {_in_base(name.removeprefix(_PREFIX), whole): name for name in adapter.beside}

    def merged(name: str, shape: tuple[int, ...], packed: Packed | None) -> Packed | None:
        if (other := replaced.get(called[name])) is not None:
            return _replacing(adapter, other, base, name, shape)
        stem = places.get(_CODES.sub("", called[name]))
        if stem is not None and base.is_gguf and _REORDERED.search(called[name]):
            raise BadInput(
                f"{adapter.checkpoint.name} changes {stem}, whose rows lie in another order in {base.name}; "
                f"{_MERGE}"
            )
        # A bias lies in the same module.
        return (
            packed if stem is None or len(shape) < 2 else _merging(adapter, stem, base, name, shape, packed)
        )

    return replace(base, name=f"{adapter.checkpoint.name} on {base.name}", merged=merged)


def _merging(
    adapter: Adapter, stem: str, base: Checkpoint, name: str, shape: tuple[int, ...], packed: Packed | None
) -> Packed:
    down = adapter.checkpoint.info(adapter.factors[stem]["A"]).shape
    up = adapter.checkpoint.info(adapter.factors[stem]["B"]).shape
    wanted = (up[0], down[-1])
    # GPT-2's modules hold their matrices inputs first, which peft notes.
    turned = packed is None and bool(adapter.settings.get("fan_in_fan_out"))
    if (shape[::-1] if turned else shape) != wanted or up[1:] != down[:1]:
        raise BadInput(
            f"{adapter.checkpoint.name}: B A of {stem} is of shape {list(wanted)}, its "
            f"matrix in {base.name} of shape {list(shape)}; it belongs to another base"
        )

    def held(rows: slice) -> Floats:
        if packed is not None:
            return packed.part((), rows, slice(0, wanted[1])).numbers
        if turned:
            return np.ascontiguousarray(base.read(name)[:, rows].T)
        return base.row(name, rows.start)[None] if rows.stop - rows.start == 1 else base.read(name)[rows]

    def part(leading: tuple[int, ...], rows: slice, cols: slice) -> Codes:
        numbers = adapter.merged(stem, held(rows), rows)[:, cols]
        return Codes(numbers, np.ones((1, 1), np.float32), None)

    kind = "DoRA" if stem in adapter.lengths else "LoRA"
    return Packed(f"{kind} on {packed.kind if packed else base.info(name).dtype}", wanted, part)


def _replacing(adapter: Adapter, other: str, base: Checkpoint, name: str, shape: tuple[int, ...]) -> Packed:
    """Return the adapter's own tensor in the place of the base's."""
    info = adapter.checkpoint.info(other)
    if info.shape != shape:
        raise BadInput(
            f"{adapter.checkpoint.name}: {other} is of shape {list(info.shape)}, and {name} of {base.name} "
            f"of shape {list(shape)}; {_MERGE}"
        )

    def part(leading: tuple[int, ...], rows: slice, cols: slice) -> Codes:
        numbers = adapter.checkpoint.stored(other, rows.start, upto=rows.stop).astype(np.float32)[:, cols]
        return Codes(numbers, np.ones((1, 1), np.float32), None)

    return Packed(info.dtype, shape, part)


def refuse_unapplied(base: Checkpoint, adapter: Adapter) -> None:
    """Raise `BadInput` naming a tensor that has no place in the base, and would be left out of the model."""
    for name in adapter.beside:
        if _LORA.search(name) or _in_base(name.removeprefix(_PREFIX), set(base.files)) is None:
            raise BadInput(
                f"{adapter.checkpoint.name} holds {name}, which has no counterpart in {base.name}; {_MERGE}"
            )


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
