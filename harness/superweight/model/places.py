"""Name where a model's parameters and stored buffers belong, whether or not they are there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Place:
    """Where a parameter or buffer of a model belongs: its module, its name there, and in the whole."""

    module: nn.Module
    own: str
    name: str

    @property
    def tensor(self) -> torch.Tensor:
        found: torch.Tensor = getattr(self.module, self.own)
        return found

    def put(self, value: torch.Tensor) -> None:
        """Put a tensor there."""
        if self.own in self.module._buffers:
            self.module._buffers[self.own] = value
        else:
            self.module._parameters[self.own] = nn.Parameter(value, requires_grad=False)


@dataclass(frozen=True)
class Unit:
    """What one block holds: the names of its parameters, and of those that routed experts share."""

    names: tuple[str, ...]
    routed: tuple[str, ...] = ()
    experts: int = 0


def places_of(model: PreTrainedModel) -> dict[str, Place]:
    """Return the parameters of a model and the buffers that its files hold, each once."""
    found: dict[str, Place] = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for own, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and own not in module._non_persistent_buffers_set:
                found[prefix + own] = Place(module, own, prefix + own)
    return found
