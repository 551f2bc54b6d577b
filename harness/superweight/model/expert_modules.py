"""Experts whose module is called in a way of its own: with all stacks at once, or to route by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from superweight.model.experts import Experts, ExpertsCall
from superweight.model.forward_override import shadowed


@dataclass(frozen=True)
class WholeStack(Experts):
    """Experts that are all applied to all tokens at once, and called with nothing but those (Llama 4).

    The module is given one copy of the tokens for each expert, weighted by the router already: a token
    that was not routed to an expert is zero there.
    """

    def call(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any], output: Any) -> ExpertsCall:
        """Return what a call of the module was about."""
        (given,) = (*arguments, *keywords.values())
        hidden = given.detach().view(self.count, -1, self.hidden)
        index, places = (hidden != 0).any(-1).nonzero(as_tuple=True)
        weights = torch.ones(len(index), dtype=hidden.dtype, device=hidden.device)
        whole = output.detach().view(self.count, -1, self.hidden).sum(0)
        return ExpertsCall(hidden[index, places], places, index, weights, whole)

    def chosen(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> list[int]:
        """Return which experts are given anything but zeros, of which no matrix makes anything else."""
        (given,) = (*arguments, *keywords.values())
        routed = given.detach().view(self.count, -1).ne(0).any(-1)
        return [int(expert) for expert in routed.nonzero()]

    def _own_rows(self, read: torch.Tensor, index: torch.Tensor, expert: int) -> torch.Tensor:
        return read[index == expert]

    def _through(self, hidden: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(len(index), device=index.device)
        given = hidden.new_zeros(self.count, len(index), self.hidden)
        given[index, rows] = hidden
        answer: torch.Tensor = self.module(given.flatten(0, 1))
        return answer.view(self.count, len(index), self.hidden)[index, rows]


@dataclass(frozen=True)
class TwiceNamed(Experts):
    """Experts whose module fails where a token has only one (LongCat-Flash): each is named twice.

    The second time it has no weight. Those beyond the count hand on what they are given, by no matrix.
    """

    def _own_rows(self, read: torch.Tensor, index: torch.Tensor, expert: int) -> torch.Tensor:
        return read[: len(read) // 2]

    def _through(self, hidden: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        weights = torch.tensor([1.0, 0.0], dtype=hidden.dtype, device=hidden.device).expand(len(index), 2)
        answer: torch.Tensor = self.module(hidden, index[:, None].expand(-1, 2), weights)
        return answer.flatten(0, -2)


@dataclass(frozen=True)
class GroupedStack(Experts):
    """Experts in a module that routes by itself and sorts the tokens by expert (JetMoE).

    The module is called with nothing but the tokens. Its router answers, for the rows in the order of the
    experts, where each goes among the pairs, its token and its weight, and how many rows each expert has.
    """

    def call(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any], output: Any) -> ExpertsCall:
        """Return what a call of the module was about."""
        (given,) = (*arguments, *keywords.values())
        hidden = given.detach().flatten(0, -2)
        with torch.no_grad():
            _, places, weights, sizes, _ = self._router(hidden)
        index = torch.arange(self.count, device=hidden.device)
        index = index.repeat_interleave(torch.tensor(sizes, device=hidden.device))
        whole = output.detach().flatten(0, -2).clone()
        return ExpertsCall(hidden[places], places, index, weights, whole, self._bias)

    def chosen(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> list[int]:
        """Return which experts the module's own router gives rows to."""
        (given,) = (*arguments, *keywords.values())
        with torch.no_grad():
            sizes = self._router(given.detach().flatten(0, -2))[3]
        return [expert for expert, size in enumerate(sizes) if size]

    @property
    def _router(self) -> nn.Module:
        return self.module.get_submodule("router")

    @property
    def _bias(self) -> torch.Tensor | None:
        bias = getattr(self.module, "bias", None)
        return bias.detach() if isinstance(bias, torch.Tensor) else None

    def _through(self, hidden: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        order = index.argsort(stable=True)
        sizes = index.bincount(minlength=self.count).tolist()
        ones = torch.ones(len(index), dtype=hidden.dtype, device=hidden.device)
        with shadowed(self._router, lambda _: (order, order, ones, sizes, None)):
            answer: torch.Tensor = self.module(hidden[None])[0]
        return answer if self._bias is None else answer - self._bias
