"""Measure one model of a comparison, each thing once: a base serves many releases."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from superweight.claims.evidence import Evidence
from superweight.measurement.conditions import INTACT
from superweight.measurement.corpus import continuations
from superweight.measurement.evaluate import (
    Decoded,
    Values,
    decode_one_by_one,
    log_probabilities,
    predicted,
    token_nll,
)
from superweight.measurement.generation import continue_greedily
from superweight.model.edits import Scale, edited
from superweight.model.subject import Subject
from superweight.release.chat_replies import Reply, losses, replies
from superweight.release.function_match import Jump, jumps


class Side:
    """Base or release. Every property is measured on first use, and text that was read stays read."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self._read: dict[bytes, Decoded] = {}
        self._losses: dict[tuple[bytes, int], Values] = {}
        self._pruned: dict[tuple[bytes, tuple[Scale, ...]], Values] = {}

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
        written = continue_greedily(self.subject, list(continuations().values()))[INTACT]
        return float(np.mean([item.loops for item in written]))

    @cached_property
    def replies(self) -> tuple[Reply, ...]:
        return replies(self.subject)

    @cached_property
    def reply_losses(self) -> list[Values]:
        """The NLL that the model gives its own replies."""
        return losses(self.subject, self.replies)

    def log_probabilities(self, ids: torch.Tensor) -> torch.Tensor:
        """Return what is predicted of (windows, tokens) ids: (windows, tokens - 1, V)."""
        key = _key(ids)
        if key not in self._read:
            # The last hidden states are kept: the logits take as much room as the vocabulary is wide.
            self._read[key] = decode_one_by_one(self.subject, ids.to(self.subject.device), [])
        logits = self._read[key].logits(self.subject, INTACT, torch.arange(len(ids)))
        return log_probabilities(logits).cpu()

    def nll(self, ids: torch.Tensor, size: int) -> Values:
        """Return the NLL, (windows, tokens - 1), over the vocabulary's first ``size`` tokens."""
        key = _key(ids), size
        if key not in self._losses:
            given = over(self.log_probabilities(ids), size)
            self._losses[key] = token_nll(given, ids[:, 1:]).double().numpy()
        return self._losses[key]

    def pruned_nll(self, ids: torch.Tensor, prunes: Sequence[Scale]) -> Values:
        """Return the NLL with some scalars pruned."""
        key = _key(ids), tuple(prunes)
        if key not in self._pruned:
            with edited(self.subject, prunes):
                given = predicted(self.subject, ids.to(self.subject.device)).cpu()
            self._pruned[key] = token_nll(given, ids[:, 1:]).double().numpy()
        return self._pruned[key]


def over(log_probabilities: torch.Tensor, size: int) -> torch.Tensor:
    """Return log-probabilities over the first ``size`` tokens, renormalised where there are more."""
    if log_probabilities.shape[-1] == size:
        return log_probabilities
    return log_probabilities[..., :size].log_softmax(-1)


def _key(ids: torch.Tensor) -> bytes:
    return ids.numpy().tobytes() + bytes(str(tuple(ids.shape)), "ascii")
