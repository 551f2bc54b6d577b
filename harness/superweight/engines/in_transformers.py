"""Measure a model that transformers holds in memory: what `Engine` promises, by the functions there are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from superweight.engines.engine import TRANSFORMERS
from superweight.measurement.conditions import INTACT, Condition
from superweight.measurement.corpus import Windows
from superweight.measurement.evaluate import (
    Measurement,
    Values,
    log_probabilities,
    measure,
    predicted,
    token_nll,
)
from superweight.measurement.generation import NEW_TOKENS, Continuation, continue_greedily, nll_of
from superweight.measurement.hidden_states import Decoded, decode_one_by_one
from superweight.measurement.zero_shot import Accuracy, Tasks, accuracies
from superweight.model.edits import Scale, edited
from superweight.model.subject import Subject


class TransformersEngine:
    """The subject itself; text that was read stays read."""

    name = TRANSFORMERS

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._read: dict[bytes, Decoded] = {}

    @property
    def place(self) -> tuple[str, str]:
        return self._subject.provenance.device, self._subject.provenance.dtype

    @property
    def described(self) -> Mapping[str, Any]:
        return {}

    def can_measure(self, condition: Condition) -> bool:
        return True

    def measure(
        self,
        windows: Windows,
        conditions: Sequence[Condition],
        tracked_ids: Sequence[int] = (),
        details: Collection[str] | None = None,
    ) -> dict[str, Measurement]:
        return measure(self._subject, windows, conditions, tracked_ids, details=details)

    def log_probabilities(self, ids: torch.Tensor) -> torch.Tensor:
        key = ids.numpy().tobytes() + bytes(str(tuple(ids.shape)), "ascii")
        if key not in self._read:
            # The last hidden states are kept: the logits take as much room as the vocabulary is wide.
            self._read[key] = decode_one_by_one(self._subject, ids.to(self._subject.device), [])
        logits = self._read[key].logits(self._subject, INTACT, slice(None))
        return log_probabilities(logits).cpu()

    def nll(self, sequences: Sequence[Sequence[int]], starts: Sequence[int]) -> list[Values]:
        found = []
        for sequence, start in zip(sequences, starts, strict=True):
            ids = torch.tensor([list(sequence)], device=self._subject.device)
            given = predicted(self._subject, ids)[0, start - 1 :]
            found.append(token_nll(given, ids[0, start:]).double().cpu().numpy())
        return found

    def nll_of(self, continuations: Sequence[Continuation]) -> list[float]:
        return nll_of(self._subject, continuations)

    def rise_when_pruned(self, ids: torch.Tensor, prunes: Sequence[Scale]) -> float:
        before = token_nll(self.log_probabilities(ids), ids[:, 1:]).double().numpy()
        with edited(self._subject, prunes):
            given = predicted(self._subject, ids.to(self._subject.device)).cpu()
        return float(np.mean(token_nll(given, ids[:, 1:]).double().numpy() - before))

    def continue_greedily(
        self, prompts: Sequence[str], conditions: Sequence[Condition] = (), tokens: int = NEW_TOKENS
    ) -> dict[str, tuple[Continuation, ...]]:
        return continue_greedily(self._subject, prompts, conditions, tokens)

    def reply(self, prompts: Sequence[Sequence[int]], tokens: int, ends: Sequence[int]) -> list[list[int]]:
        written = []
        for prompt in prompts:
            ids = torch.tensor([list(prompt)], device=self._subject.device)
            with torch.no_grad():
                whole = self._subject.model.generate(  # type: ignore[operator]  # stubs see a Tensor here
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    num_beams=1,
                    max_new_tokens=tokens,
                    eos_token_id=sorted(ends) or None,
                    pad_token_id=0,
                    use_cache=True,
                )
            written.append(whole[0, len(prompt) :].tolist())
        return written

    def accuracies(self, tasks: Tasks, prunes: Sequence[Scale] = ()) -> dict[str, Accuracy]:
        with edited(self._subject, prunes):
            return accuracies(self._subject, tasks)

    def free(self) -> None:
        self._read.clear()
