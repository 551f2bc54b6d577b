"""Make a model's parameters from the tensors of a GGUF file, a few at a time, as transformers names them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from superweight.checkpoints.tensors import gguf
from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.files import File
from superweight.core.errors import BrokenModel, UnknownArchitecture
from superweight.model.gguf_tensors import block_number, can_stream, numbers, tied_names

_STACKED = "_exps."


def first_part(checkpoint: Checkpoint) -> File:
    """Return the file that holds the metadata of a GGUF checkpoint."""
    found = checkpoint.folder.find(min(checkpoint.files.values()))
    if found is None:
        raise BrokenModel(f"{checkpoint.name} disappeared while it was read; try again")
    return found


@dataclass(frozen=True)
class HeaderBytes:
    """The header of a GGUF file, what it says beside the tensors, and how long the whole is."""

    data: bytes
    size: int
    metadata: Mapping[str, object]

    def write(self, path: Path) -> None:
        """Write a file that has holes where the numbers are, of which transformers reads what it describes.

        Holes take no room on a disk.
        """
        with path.open("wb") as target:
            target.write(self.data)
            target.truncate(self.size)


def header_of(checkpoint: Checkpoint) -> HeaderBytes:
    """Return the header of the file that holds the metadata."""
    file = first_part(checkpoint)
    own = [info.start for info in checkpoint.tensors().values() if info.file.name == file.name]
    _, metadata = gguf.read_header(file)
    return HeaderBytes(file.read(0, min(own, default=file.size)), file.size, metadata)


def architecture_of(checkpoint: Checkpoint) -> str:
    """Return what a GGUF file calls its architecture; raises where it is converted only as a whole."""
    _, metadata = gguf.read_header(first_part(checkpoint))
    architecture = str(metadata.get("general.architecture", ""))
    if not can_stream(architecture):
        raise UnknownArchitecture(
            f"{checkpoint.name}: transformers converts a GGUF file of {architecture} as a whole, so it is "
            "not run block by block; scan it without --stream"
        )
    return architecture


@dataclass(frozen=True)
class _Conversion:
    """What transformers makes of the tensors of one file."""

    checkpoint: Checkpoint
    config: dict[str, Any]
    processor: Any
    names: dict[str, str]

    def made(self, stored: Sequence[str], read: Callable[[str], Any]) -> dict[str, torch.Tensor]:
        stacked: dict[str, Any] = {"config": self.config, "tensors": {}}
        made: dict[str, torch.Tensor] = {}
        for name in stored:
            result = self.processor.process(
                weights=read(name), name=name, tensor_key_mapping=self.names, parsed_parameters=stacked
            )
            if result.name in self.names:
                # A copy: what a file's bytes are decoded from is not to be written to.
                weights = np.array(result.weights, dtype=np.float32)
                made[self.names[result.name]] = torch.from_numpy(weights)
        return made | dict(stacked["tensors"])


@dataclass(frozen=True)
class FromGguf:
    """Parameters made of one tensor of a GGUF file, or of stacks of one block's experts."""

    targets: tuple[str, ...]
    stored: tuple[str, ...]
    conversion: _Conversion
    dtype: torch.dtype

    def bring(self) -> dict[str, torch.Tensor]:
        checkpoint = self.conversion.checkpoint
        made = self.conversion.made(self.stored, lambda name: numbers(checkpoint, name))
        if astray := sorted(set(self.targets) - made.keys()):
            raise BrokenModel(f"{checkpoint.name}: {', '.join(self.stored)} do not make up {astray[0]}")
        return {name: made[name].to(self.dtype) for name in self.targets}

    def stored_in(self) -> tuple[tuple[str, bool], ...]:
        return tuple((name, False) for name in self.stored)

    def parts(self, count: int) -> Callable[[int], torch.Tensor] | None:
        checkpoint = self.conversion.checkpoint
        shapes = [checkpoint.info(name).shape for name in self.stored]
        a_table = len(shapes) == 1 and len(shapes[0]) == 2
        experts = all(len(shape) == 3 for shape in shapes)
        if len(self.targets) != 1 or not (a_table or experts) or {shape[0] for shape in shapes} != {count}:
            return None

        def one(index: int) -> torch.Tensor:
            made = self.conversion.made(self.stored, lambda name: checkpoint.read(name, index)[None])
            return made[self.targets[0]][0].to(self.dtype)

        return one


def gguf_parameter_sources(
    model: PreTrainedModel, checkpoint: Checkpoint, architecture: str
) -> tuple[list[FromGguf], list[str]]:
    """Return how a model's parameters are made from a GGUF file, and which blocks' tensors belong to none."""
    from transformers import modeling_gguf_pytorch_utils

    library: Any = modeling_gguf_pytorch_utils
    config = model.config.to_dict()
    processor = library.TENSOR_PROCESSORS.get(architecture, library.TensorProcessor)(config=config)
    names: dict[str, str] = library.get_gguf_hf_weights_map(model, processor)
    conversion = _Conversion(checkpoint, config, processor, names)
    tied = tied_names(model)
    plain = {name: names[name] for name in checkpoint.files if name in names and _STACKED not in name}
    made = [
        FromGguf((target,), (name,), conversion, model.dtype)
        for name, target in plain.items()
        if target not in tied
    ]
    stacks: dict[int, list[str]] = {}
    for name in checkpoint.files:
        if _STACKED in name:
            stacks.setdefault(block_number(name), []).append(name)
    due = model.state_dict().keys() - set(plain.values())
    for number, stored in stacks.items():
        targets = {name for name in due if f".{number}." in name and "experts" in name}
        for own, parts in _by_target(names, targets, stored):
            made.append(FromGguf(own, parts, conversion, model.dtype))
    used = {*plain, *(name for stored in stacks.values() for name in stored)}
    beside = {name.split(".")[1] for name in checkpoint.files if ".nextn." in name}
    unused = [name for name in checkpoint.files if name.startswith("blk.") and name not in used]
    return made, [name for name in unused if name.split(".")[1] not in beside]


def _by_target(
    names: Mapping[str, str], targets: Collection[str], stored: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield which stacks of a block's experts make up which parameters: all, where that is not told."""
    found: dict[str, list[str]] = {}
    for name in sorted(stored):
        found.setdefault(names.get(name.removesuffix(".weight"), ""), []).append(name)
    if found.keys() == set(targets):
        yield from (((target,), tuple(parts)) for target, parts in found.items())
    else:
        yield tuple(sorted(targets)), tuple(sorted(stored))
