"""Read and scale the gains of a norm, or layer scale, behind an MLP.

Everything is asked of the module itself, as it is of a projection: a norm may multiply by its
parameter, or by one more than it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from superweight.core.coordinates import GainCoordinate
from superweight.core.errors import BadInput, EditFailed
from superweight.model.architecture import Architecture
from superweight.model.edit_proofs import prove
from superweight.model.projections import execution_device

# The probe is rounded by the norm's own arithmetic, and an edit by one more product.
ROUNDINGS = 8.0


@dataclass(frozen=True)
class Gains:
    """By what a module multiplies each channel of a write, (hidden,); ``norm`` is its path in the block."""

    module: nn.Module
    layer: int
    norm: str
    hidden: int

    def probe(self, seats: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gains and the offsets that the module computes with, (seats, hidden) each.

        It is given ones of changing sign, whose mean is 0 and whose size is 1, and their opposite. Each
        of ``seats`` copies is a sequence of its own.
        """
        parameter = next(self.module.parameters())
        ones = torch.ones(self.hidden, dtype=parameter.dtype, device=execution_device(self.module))
        ones[1::2] = -1
        with torch.no_grad():
            answer = self.module(torch.stack([ones, -ones]).repeat(seats, 1, 1))
        up, down = answer[:, 0], answer[:, 1]
        return (up - down) / 2 * ones, (up + down) / 2

    def values(self) -> torch.Tensor:
        """Return the gains that the module computes with: (hidden,)."""
        return self.probe()[0][0]

    def value(self, channel: int) -> float:
        return float(self.values()[channel])

    def at(self, channel: int) -> GainCoordinate:
        return GainCoordinate(self.layer, self.norm, channel)

    @contextmanager
    def scaled(self, seats: Sequence[Mapping[int, float]]) -> Iterator[None]:
        """Multiply gains for the length of a ``with`` block: factors by channel, for each seat.

        A batch is divided into as many equal parts as there are seats. What the module adds to a
        channel is kept.
        """
        for channel in {channel for factors in seats for channel in factors}:
            if channel >= self.hidden:
                raise BadInput(
                    f"{self.at(channel)}: {self.norm} has {self.hidden} gains, and none at {channel}"
                )
        before = self.probe()
        offset = before[1][0]
        kept = {channel: offset[channel] for factors in seats for channel in factors}

        def rescale(_: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
            result = output.clone(memory_format=torch.contiguous_format)
            seated = result.view(len(seats), -1, output.shape[-1])
            for seat, factors in enumerate(seats):
                for channel, factor in factors.items():
                    own = seated[seat, :, channel] - kept[channel]
                    seated[seat, :, channel] = own * factor + kept[channel]
            return result

        handle = self.module.register_forward_hook(rescale)
        try:
            self._prove(seats, before)
            yield
        finally:
            handle.remove()
        again = self.probe()

        def check() -> None:
            if not all(torch.equal(one, other) for one, other in zip(before, again, strict=True)):
                raise EditFailed(
                    f"undoing the edit of {self.norm} in block {self.layer} did not bring back the gains it "
                    "had; what was measured after it does not count"
                )

        prove(check)

    def _prove(self, seats: Sequence[Mapping[int, float]], before: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Prove that each seat now computes with its own gains scaled, and no others."""
        gains, offsets = (part.expand(len(seats), -1) for part in before)
        wanted = gains.clone()
        for seat, factors in enumerate(seats):
            for channel, factor in factors.items():
                wanted[seat, channel] *= factor
        after, kept = self.probe(len(seats))
        size = gains.abs() + wanted.abs() + offsets.abs()
        allowed = ROUNDINGS * torch.finfo(wanted.dtype).eps * size
        # Written so that a NaN anywhere counts as wrong.
        wrong = ~(((after - wanted).abs() <= allowed) & ((kept - offsets).abs() <= allowed))

        def check() -> None:
            if bool(wrong.any()):
                seat, channel = wrong.nonzero()[0].tolist()
                raise EditFailed(
                    f"scaling gains of {self.norm} in block {self.layer} did not take effect: it computes "
                    f"with {float(after[seat, channel]):g} at channel {channel} where "
                    f"{float(wanted[seat, channel]):g} was meant"
                )

        prove(check)


def gains_of(architecture: Architecture, layer: int, norm: str) -> Gains:
    """Return the gains of one norm; raises `BadInput` where the block has no such norm."""
    if not 0 <= layer < len(architecture.blocks):
        raise BadInput(f"there is no block {layer}: the model has blocks 0 to {len(architecture.blocks) - 1}")
    block = architecture.blocks[layer]
    norms = [name for name, part in block.named_children() if is_gain(part, architecture.hidden)]
    if norm not in norms:
        has = f"it has {', '.join(norms)}" if norms else "it has none"
        raise BadInput(f"block {layer} has no norm {norm!r} of {architecture.hidden} gains; {has}")
    return Gains(block.get_submodule(norm), layer, norm, architecture.hidden)


def is_gain(module: nn.Module, hidden: int) -> bool:
    """Tell whether a module multiplies each of ``hidden`` channels, and may add to each, and no more."""
    parameters = list(module.parameters())
    return 0 < len(parameters) <= 2 and all(tuple(item.shape) == (hidden,) for item in parameters)
