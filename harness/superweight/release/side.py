"""Measure one model of a comparison, each thing once: a base serves many releases."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from superweight.claims.evidence import Evidence
from superweight.measurement.conditions import INTACT
from superweight.measurement.corpus import continuations
from superweight.measurement.evaluate import Values, token_nll
from superweight.model.edits import Scale
from superweight.model.subject import Subject
from superweight.release.chat_replies import Reply, losses, replies
from superweight.release.function_match import Jump, jumps


class Side:
    """Base or release. Every property is measured on first use, and text that was read stays read.

    Predictions and text are those of the evidence's engine.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self._losses: dict[tuple[bytes, int], Values] = {}
        self._rises: dict[tuple[bytes, tuple[Scale, ...]], float] = {}

    @property
    def subject(self) -> Subject:
        return self.evidence.subject

    @cached_property
    def vocabulary(self) -> int:
        """How many tokens the model predicts."""
        return int(self.log_probabilities(torch.from_numpy(self.evidence.windows.ids[:1])).shape[-1])

    @cached_property
    def jumps(self) -> tuple[Jump, ...]:
        return jumps(self.subject)

    @cached_property
    def loops(self) -> float:
        """The share of greedy continuations that end in a loop."""
        written = self.evidence.engine.continue_greedily(list(continuations().values()))[INTACT]
        return float(np.mean([item.loops for item in written]))

    @cached_property
    def replies(self) -> tuple[Reply, ...]:
        return replies(self.subject, self.evidence.engine)

    @cached_property
    def reply_losses(self) -> list[Values]:
        """The NLL that the model gives its own replies."""
        return self.losses_of(self.replies)

    def losses_of(self, given: Sequence[Reply]) -> list[Values]:
        """Return the NLL that the model gives each token of each reply: one (tokens,) a reply."""
        return losses(self.evidence.engine, given)

    def log_probabilities(self, ids: torch.Tensor) -> torch.Tensor:
        """Return what is predicted of (windows, tokens) ids: (windows, tokens - 1, V)."""
        return self.evidence.engine.log_probabilities(ids)

    def nll(self, ids: torch.Tensor, size: int) -> Values:
        """Return the NLL, (windows, tokens - 1), over the vocabulary's first ``size`` tokens."""
        key = _key(ids), size
        if key not in self._losses:
            given = over(self.log_probabilities(ids), size)
            self._losses[key] = token_nll(given, ids[:, 1:]).double().numpy()
        return self._losses[key]

    def rise_when_pruned(self, ids: torch.Tensor, prunes: Sequence[Scale]) -> float:
        """Return by how many nats a token the NLL rises with some scalars pruned."""
        key = _key(ids), tuple(prunes)
        if key not in self._rises:
            self._rises[key] = self.evidence.engine.rise_when_pruned(ids, prunes)
        return self._rises[key]


def over(log_probabilities: torch.Tensor, size: int) -> torch.Tensor:
    """Return log-probabilities over the first ``size`` tokens, renormalised where there are more."""
    if log_probabilities.shape[-1] == size:
        return log_probabilities
    return log_probabilities[..., :size].log_softmax(-1)


def _key(ids: torch.Tensor) -> bytes:
    return ids.numpy().tobytes() + bytes(str(tuple(ids.shape)), "ascii")
