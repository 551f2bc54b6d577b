"""Tell which routed experts can be brought one by one: those of which each is a part of what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from superweight.model.architecture import Architecture
from superweight.model.experts import Experts
from superweight.model.parameter_sources import ParameterSource
from superweight.model.places import Place


@dataclass(frozen=True)
class Routed:
    """The routed experts of one block: their stacks, and which experts of them are in memory."""

    experts: Experts
    stacks: dict[str, tuple[Place, Callable[[int], torch.Tensor]]]
    present: set[int] = field(default_factory=set)


def find_routed(
    architecture: Architecture, places: Mapping[str, Place], made: Mapping[str, ParameterSource]
) -> Iterator[Routed]:
    """Yield the experts of every block whose stacks are made of parts that lie apart in the files."""
    for block in architecture.layout:
        experts = block.experts
        if experts is None:
            continue
        inside = {id(module) for module in experts.module.modules()}
        own = {name: place for name, place in places.items() if id(place.module) in inside}
        stacks = {}
        for name, place in own.items():
            if place.tensor.ndim < 3 or place.tensor.shape[0] != experts.count:
                continue
            source = made.get(name)
            one = None if source is None else source.parts(experts.count)
            if one is not None:
                stacks[name] = (place, one)
        if stacks:
            yield Routed(experts, stacks)
