"""Mixtures of experts that keep their output projections in one 3-D parameter.

Such a parameter belongs to no module per expert, so there is nothing to hook: what an expert reads
is seen, replaced or corrected at the one product in which its slice of the parameter takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from superweight.model.forward_override import shadowed
from superweight.model.projections import Projection, with_correction

# The products by which experts apply a slice of their parameter, or all of it at once.
_PRODUCTS = (nn.functional.linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm)

# In place of an expert's number: the operand is the whole parameter.
_ALL = -1

# What a probe sends through the products in place of what the experts would have read.
_PROBED: ContextVar[torch.Tensor | None] = ContextVar("probed", default=None)


@dataclass(frozen=True)
class ExpertsCall:
    """One call of a block's experts: for each of n pairs which token, which expert, and its weight.

    ``hidden``: (n, hidden), what the expert is given; ``places``, ``index`` and ``weights``: (n,);
    ``whole``: (tokens, hidden), what all write together; ``bias``: (hidden,), what of it no expert writes.
    """

    hidden: torch.Tensor
    places: torch.Tensor
    index: torch.Tensor
    weights: torch.Tensor
    whole: torch.Tensor
    bias: torch.Tensor | None = None


@dataclass(frozen=True)
class Experts:
    """The routed experts of one block: a module called as (hidden, top_k_index, top_k_weights).

    ``parameter`` is the path, from the module, of what holds all output projections: (experts, hidden,
    intermediate), or (experts, intermediate, hidden) where it is ``transposed``; flat in its first two
    dimensions in some families.
    """

    module: nn.Module
    parameter: str
    layer: int
    count: int
    hidden: int
    intermediate: int
    dtype: torch.dtype
    transposed: bool = False

    def stack(self) -> torch.Tensor:
        """Return the parameter with one matrix an expert, as it is stored."""
        stored: torch.Tensor = self.module.get_parameter(self.parameter)
        return stored if stored.ndim == 3 else stored.view(self.count, -1, stored.shape[-1])

    @property
    def projections(self) -> tuple[ExpertProjection, ...]:
        return tuple(
            ExpertProjection(
                self.module,
                self.layer,
                self.hidden,
                self.intermediate,
                self.dtype,
                self.transposed,
                experts=self,
                index=index,
            )
            for index in range(self.count)
        )

    def call(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any], output: Any) -> ExpertsCall:
        """Return what a call of the module was about."""
        passed: list[torch.Tensor] = [*arguments, *keywords.values()]
        hidden, index, weights = (item.detach().flatten(0, -2) for item in passed)
        places = torch.arange(len(hidden), device=hidden.device).repeat_interleave(index.shape[-1])
        return ExpertsCall(
            hidden[places], places, index.flatten(), weights.flatten(), output.detach().flatten(0, -2).clone()
        )

    def chosen(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> list[int]:
        """Return which experts a call of the module goes to."""
        index: torch.Tensor = [*arguments, *keywords.values()][1]
        # Some routers name more than there are: those hand on what they are given.
        return [expert for expert in index.unique().tolist() if expert < self.count]

    def seen(self, hidden: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return X and Y of row n of ``hidden`` through expert ``index[n]``, unweighted.

        ``hidden``: (n, hidden), ``index``: (n,); X: (n, intermediate), Y: (n, hidden).
        """
        inputs = torch.zeros(len(index), self.intermediate, dtype=self.dtype, device=index.device)

        def keep(expert: int, read: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            inputs[index == expert] = self._own_rows(read, index, expert).to(inputs.dtype)
            return output

        with _tapped(self, keep):
            outputs = self._through(hidden, index)
        return inputs, outputs

    def _own_rows(self, read: torch.Tensor, index: torch.Tensor, expert: int) -> torch.Tensor:
        """Return, of the rows that an expert read, those of its own tokens."""
        return read

    def _through(self, hidden: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        weights = torch.ones(len(index), 1, dtype=hidden.dtype, device=hidden.device)
        answer: torch.Tensor = self.module(hidden, index[:, None], weights)
        return answer.flatten(0, -2)


@dataclass(frozen=True)
class ExpertProjection(Projection):
    """The output projection of one routed expert: a slice of the experts' parameter."""

    experts: Experts = None  # type: ignore[assignment]  # follows fields with defaults; always given
    index: int = 0

    @property
    def expert(self) -> int:
        return self.index

    @property
    def _stored(self) -> torch.Tensor | None:
        parameter = self.module.get_parameter(self.experts.parameter)
        # Slicing a subclass of Tensor, a packed matrix, need not give a view of it.
        return self.experts.stack()[self.index] if type(parameter) is nn.Parameter else None

    def answer(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = torch.zeros(len(inputs), self.hidden, dtype=self.dtype, device=inputs.device)
        index = torch.full((len(inputs),), self.index, device=inputs.device)
        token = _PROBED.set(inputs)
        try:
            with _tapped(self.experts, lambda expert, read, output: output):
                return self.experts._through(hidden, index)
        finally:
            _PROBED.reset(token)

    @contextmanager
    def corrected(self, rows: torch.Tensor, cols: torch.Tensor, change: torch.Tensor) -> Iterator[None]:
        def correct(expert: int, read: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            if expert != self.index:
                return output
            return with_correction(read, output, rows, cols, change)

        forward = self.module.forward

        def tapped_forward(*arguments: Any, **keywords: Any) -> Any:
            with _tapped(self.experts, correct):
                return forward(*arguments, **keywords)

        with shadowed(self.module, tapped_forward):
            yield


class _Tap(TorchFunctionMode):
    """Hands each product of one block's experts to ``then(expert, X, Y)``, which returns Y."""

    def __init__(
        self, experts: Experts, then: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]
    ) -> None:
        super().__init__()
        self.experts = experts
        self.then = then

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        expert = self._expert(args[1]) if func in _PRODUCTS and len(args) > 1 else None
        probed = _PROBED.get()
        if expert is None:
            return func(*args, **(kwargs or {}))
        if expert == _ALL:
            read = args[0] if probed is None else probed.expand(self.experts.count, *probed.shape)
            answers = func(read, *args[1:], **(kwargs or {}))
            each = zip(range(self.experts.count), read, answers, strict=True)
            return torch.stack([self.then(number, own, answer) for number, own, answer in each])
        # An expert without a token reads no row, and one that is named twice reads each row twice.
        read = args[0] if probed is None else probed.repeat(len(args[0]) // len(probed), 1)
        return self.then(expert, read, func(read, *args[1:], **(kwargs or {})))

    def _expert(self, operand: Any) -> int | None:
        """Return which expert's slice of the parameter an operand is, `_ALL` for the whole, or None."""
        parameter = self.experts.module.get_parameter(self.experts.parameter)
        if not isinstance(operand, torch.Tensor) or parameter.is_meta:
            return None
        if operand.ndim == 3:
            whole = operand.numel() == parameter.numel() and operand.data_ptr() == parameter.data_ptr()
            return _ALL if whole else None
        if operand.ndim != 2:
            return None
        stack = self.experts.stack()
        step = stack.stride(0) * stack.itemsize
        expert, within = divmod(operand.data_ptr() - stack.data_ptr(), step)
        return expert if within == 0 and 0 <= expert < self.experts.count else None


@contextmanager
def _tapped(
    experts: Experts, then: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Run the experts one by one, as their class defines it, with a tap on their products.

    transformers may otherwise hand all experts to one grouped kernel, in which they cannot be told
    apart.
    """
    config = getattr(experts.module, "config", None)
    chosen = getattr(config, "_experts_implementation", None)
    if chosen is not None:
        config._experts_implementation = "eager"  # type: ignore[union-attr]  # it has the attribute
    try:
        with _Tap(experts, then):
            yield
    finally:
        if chosen is not None:
            config._experts_implementation = chosen  # type: ignore[union-attr]
