"""Make a model's parameters from a checkpoint's tensors, a few at a time, by transformers' own conversions.

`from_pretrained` makes all of them at once. The names, and what is merged, split or turned on the way,
are those that it uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from superweight.core.errors import UnknownArchitecture
from superweight.model.dequantised import LazyTensor
from superweight.model.stored_numbers import read_part, read_whole

# Reads a stored tensor, at its place among those of its pattern, for a dtype; None leaves it out.
_Read = Callable[[LazyTensor, int, torch.dtype], "torch.Tensor | None"]


class ParameterSource(Protocol):
    """How some parameters of a model, ``targets``, are made from what is stored of them."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the parameters."""

    def bring(self) -> dict[str, torch.Tensor]:
        """Read what is stored, and return the parameters by name."""

    def stored_in(self) -> tuple[tuple[str, bool], ...]:
        """Return the names of the stored tensors, and which of them are packed."""

    def parts(self, count: int) -> Callable[[int], torch.Tensor] | None:
        """Return what reads the part at one of ``count`` indices of the first dimension; None if nothing."""


@dataclass(frozen=True)
class Converted:
    """Parameters that transformers makes from one or several tensors of a checkpoint.

    ``sources`` are the tensors by the pattern that each was recognised by, in the order that the
    conversion wants, and the dtype that each is cast to before it.
    """

    model: PreTrainedModel
    name: str
    targets: tuple[str, ...]
    transform: Any
    sources: dict[str, list[tuple[str, LazyTensor, torch.dtype]]] = field(default_factory=dict)

    def bring(self) -> dict[str, torch.Tensor]:
        return self._convert(lambda stored, place, dtype: read_whole(stored, dtype))

    def stored_in(self) -> tuple[tuple[str, bool], ...]:
        every = [stored.tensor for sources in self.sources.values() for _, stored, _ in sources]
        return tuple((tensor.info.name, tensor.kind is not None) for tensor in every)

    def parts(self, count: int) -> Callable[[int], torch.Tensor] | None:
        every = [stored for sources in self.sources.values() for _, stored, _ in sources]
        if not isinstance(self.transform, WeightConverter):
            (stored,) = every
            if not stored.in_parts or stored.shape[0] != count:
                return None
            dtype = next(iter(self.sources.values()))[0][2]
            return lambda index: read_part(stored, index).to(dtype)
        each = {len(sources) for sources in self.sources.values()}
        if each != {count} or len(self.targets) != 1:
            return None
        return self._one_of_each

    def _one_of_each(self, index: int) -> torch.Tensor:
        """Return what the conversion makes of the tensors of one expert alone."""
        made = self._convert(
            lambda stored, place, dtype: read_whole(stored, dtype) if place == index else None
        )
        (value,) = made.values()
        if value.shape[0] != 1:
            raise UnknownArchitecture(f"{self.name}: the experts do not lie one after the other")
        return value[0]

    def _convert(self, read: _Read) -> dict[str, torch.Tensor]:
        transform = deepcopy(self.transform)
        for pattern, sources in self.sources.items():
            for place, (key, stored, dtype) in enumerate(sources):
                transform.add_tensor(self.name, key, pattern, _job(read, stored, place, dtype))
        made = transform.convert(self.name, model=self.model, config=self.model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


def _job(
    read: _Read,
    stored: LazyTensor,
    place: int,
    dtype: torch.dtype,
) -> Callable[[], torch.Tensor | None]:
    def job() -> torch.Tensor | None:
        numbers = read(stored, place, dtype)
        return numbers if numbers is None else numbers.to(dtype)

    return job


def parameter_sources(
    model: PreTrainedModel, tensors: Mapping[str, LazyTensor], dtype: torch.dtype
) -> tuple[list[Converted], list[str]]:
    """Return how a model's parameters are made from tensors, and which tensors belong to none.

    ``model`` may lie on the meta device; ``dtype`` is what it was made in.
    """
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    wanted = model.state_dict()
    plan = model._get_dtype_plan(dtype)
    found: dict[str, Converted] = {}
    unused: list[str] = []
    for key in sorted(tensors, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, wanted)
        if name not in wanted and key in wanted:
            name, pattern = rename_source_key(key, [], [], model.base_model_prefix, wanted)
        if name not in wanted:
            unused.append(name)
            continue
        transform: WeightRenaming | WeightConverter = WeightRenaming(key, name)
        source = key
        targets: tuple[str, ...] = (name,)
        if pattern is not None:
            transform, source = by_pattern[pattern], pattern
            first = transform.target_patterns[0]
            targets = tuple(name.replace(first, other) for other in transform.target_patterns)
        own = found.setdefault(name, Converted(model, name, targets, transform))
        own.sources.setdefault(source, []).append((key, tensors[key], _dtype(name, wanted[name], plan)))
    return list(found.values()), unused


def _dtype(name: str, empty: torch.Tensor, plan: Mapping[str, torch.dtype]) -> torch.dtype:
    """Return the dtype of a parameter; some classes keep a few of theirs in float32."""
    kept = (own for glob, own in plan.items() if re.search(glob.replace("*", ".*"), name))
    return next(kept, empty.dtype)
