"""Read the scalars of an MLP output projection, Y = X Wᵀ, and correct its output.

Everything is asked of the module itself: a one-hot input through it, with all its hooks, shows the
scalar it really computes with, whether its weight is on show, offloaded, quantised or edited.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import nn

from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput
from superweight.model.column_probe import one_hot_inputs, without_bias

# One-hot inputs sent through a module at once.
_CHUNK = 512


@dataclass(frozen=True)
class Projection(ABC):
    """The projection of one block, or of one expert in it; W: (hidden, intermediate).

    ``transposed`` says that the module stores W as (intermediate, hidden); rows and columns here
    are always the paper's. ``dtype`` is the one the module takes its inputs in.
    """

    module: nn.Module
    layer: int
    hidden: int
    intermediate: int
    dtype: torch.dtype
    transposed: bool = False

    @property
    @abstractmethod
    def expert(self) -> int | None:
        """The number of the routed expert, or None."""

    @property
    @abstractmethod
    def _stored(self) -> torch.Tensor | None:
        """The weight on show, as the module stores it, or None where it shows no matrix."""

    @abstractmethod
    def answer(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return Y of X, all hooks and corrections included: (n, intermediate) to (n, hidden)."""

    @abstractmethod
    def corrected(
        self, rows: torch.Tensor, cols: torch.Tensor, change: torch.Tensor
    ) -> AbstractContextManager[None]:
        """Add ``change`` · X[:, cols] to Y[:, rows] for the length of a ``with`` block."""

    @property
    def writable(self) -> bool:
        """Whether the module computes with the very tensor that ``weight`` shows.

        False for quantised modules, and for offloaded ones, whose weight on show is a
        placeholder: a write there succeeds and changes nothing.
        """
        stored = self._stored
        shape = (self.hidden, self.intermediate)
        return (
            stored is not None
            # A subclass of Tensor is a packed matrix that poses as a plain one.
            and type(stored) in (torch.Tensor, nn.Parameter)
            and stored.is_floating_point()
            and stored.itemsize > 1
            # accelerate leaves a placeholder on the meta device for what it offloaded.
            and not stored.is_meta
            and tuple(stored.shape) == (shape[::-1] if self.transposed else shape)
        )

    def weight(self) -> torch.Tensor:
        """Return W as a view, (hidden, intermediate); only where `writable`."""
        stored = self._stored
        if stored is None or not self.writable:
            raise BadInput(f"{type(self.module).__name__} does not show the weight it computes with")
        return stored.detach().T if self.transposed else stored.detach()

    def probe(self, cols: torch.Tensor) -> torch.Tensor:
        """Return W[:, cols] as the module really computes it: (len(cols), hidden)."""
        with torch.no_grad():
            return without_bias(self.answer(self.one_hot(cols)))

    def one_hot(self, cols: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Return the inputs that read some columns, as `one_hot_inputs`."""
        device = execution_device(self.module)
        return one_hot_inputs(cols, self.intermediate, dtype=self.dtype, device=device)

    def shown_row(self, channel: int) -> torch.Tensor | None:
        """Return W[channel, :] as it is stored, which no probe has proven; None where it is packed."""
        return self.weight()[channel].clone() if self.writable else None

    def row(self, channel: int) -> torch.Tensor:
        """Return W[channel, :]: (intermediate,)."""
        if self.writable:
            return self.weight()[channel]
        return torch.cat([self.probe(cols)[:, channel] for cols in self._all_cols()])

    def matrix(self) -> torch.Tensor:
        """Return W, (hidden, intermediate): a view where `writable`, probed column by column if not."""
        if self.writable:
            return self.weight()
        return torch.cat([self.probe(cols) for cols in self._all_cols()]).T

    def value(self, row: int, col: int) -> float:
        """Return the one scalar W[row, col] that the module computes with, edits by hook included."""
        return float(self.probe(torch.tensor([col]))[0, row])

    def at(self, row: int, col: int) -> Coordinate:
        """Return the coordinate of W[row, col] in the model."""
        return Coordinate(self.layer, row, col, self.expert)

    def _all_cols(self) -> tuple[torch.Tensor, ...]:
        chunks: tuple[torch.Tensor, ...] = torch.arange(self.intermediate).split(_CHUNK)
        return chunks


@dataclass(frozen=True)
class LinearProjection(Projection):
    """A module of its own: nn.Linear, Conv1D, or a quantised stand-in for one."""

    @property
    def expert(self) -> None:
        return None

    @property
    def _stored(self) -> torch.Tensor | None:
        weight = getattr(self.module, "weight", None)
        return weight if isinstance(weight, nn.Parameter) else None

    def shown_row(self, channel: int) -> torch.Tensor | None:
        """Return W[channel, :] as it is stored, of an offloaded module as accelerate brings it."""
        with align_module_device(self.module):
            return super().shown_row(channel)

    def row(self, channel: int) -> torch.Tensor:
        """Return W[channel, :]: (intermediate,).

        Of an offloaded module without corrections the weight that accelerate brings is read, and
        believed when a probe finds its largest entry in it: probing every column would cost as
        much as a long text.
        """
        if not self.writable and not self.module._forward_hooks:
            brought = self.shown_row(channel)
            if brought is not None:
                largest = int(brought.abs().argmax())
                if float(brought[largest]) == self.value(channel, largest):
                    return brought
        return super().row(channel)

    def answer(self, inputs: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.module(inputs)
        return answer

    @contextmanager
    def corrected(self, rows: torch.Tensor, cols: torch.Tensor, change: torch.Tensor) -> Iterator[None]:
        def correct(_: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
            return with_correction(arguments[0], output, rows, cols, change)

        handle = self.module.register_forward_hook(correct)
        try:
            yield
        finally:
            handle.remove()


def with_correction(
    inputs: torch.Tensor,
    output: torch.Tensor,
    rows: torch.Tensor,
    cols: torch.Tensor,
    change: torch.Tensor,
) -> torch.Tensor:
    """Return Y with ``change`` · X[..., cols] added at ``rows``; leading dimensions are kept."""
    device = output.device
    read = inputs[..., cols.to(device)].to(output.dtype)
    return output.clone().index_add_(-1, rows.to(device), read * change.to(device, output.dtype))


def execution_device(module: nn.Module) -> torch.device:
    """Return where a module computes: of an offloaded one, where accelerate sends its inputs.

    One whose weights are brought when it runs computes on the CPU.
    """
    hook = getattr(module, "_hf_hook", None)
    planned = getattr(hook, "execution_device", None)
    if planned is not None:
        return torch.device(planned)
    tensor: torch.Tensor | None = next(module.parameters(), next(module.buffers(), None))
    return torch.device("cpu") if tensor is None or tensor.is_meta else tensor.device
