"""Measure a model by a program that runs its file: what `Engine` promises, of any `Runner`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import torch

from superweight.core.errors import BrokenModel, HarnessError
from superweight.engines.engine import Logits, Runner
from superweight.measurement.conditions import INTACT, Condition
from superweight.measurement.corpus import Windows
from superweight.measurement.evaluate import Measurement, Values, joined, reduced, token_nll
from superweight.measurement.generation import NEW_TOKENS, Continuation
from superweight.measurement.zero_shot import Accuracy, Tasks, accuracies_of
from superweight.model.edits import Scale, ScaleGain
from superweight.model.subject import Subject

Edits = Sequence[Scale | ScaleGain]


class RunnerEngine:
    """What a runner's model predicts and writes; the subject, in transformers, gives it its tokens."""

    def __init__(self, subject: Subject, runner: Runner) -> None:
        self._subject = subject
        self._runner = runner
        self._read: dict[bytes, list[Logits]] = {}

    @property
    def name(self) -> str:
        return self._runner.name

    @property
    def place(self) -> tuple[str, str]:
        return self._runner.place

    @property
    def described(self) -> Mapping[str, Any]:
        return self._runner.described

    def can_measure(self, condition: Condition) -> bool:
        return not condition.restored

    def measure(
        self,
        windows: Windows,
        conditions: Sequence[Condition],
        tracked_ids: Sequence[int] = (),
        details: Collection[str] | None = None,
    ) -> dict[str, Measurement]:
        """Measure every condition against the model that is stored as it is, and scaled in nothing.

        Raises `BrokenModel` where the intact model predicts NaN.
        """
        for condition in conditions:
            if not self.can_measure(condition):
                raise HarnessError(f"{self.name} does not put an activation back: {condition.name}")
        sequences = windows.ids.tolist()
        every, tracked = torch.from_numpy(windows.ids), torch.tensor(list(tracked_ids), dtype=torch.long)
        intact = self._predicted(sequences)
        self._refuse_no_numbers(intact)
        found = {INTACT: _reduced(intact, intact, every, tracked)}
        ordered = sorted(conditions, key=lambda item: sorted(self._stored_otherwise(item)))
        for stored, group in groupby(ordered, key=self._stored_otherwise):
            same = list(group)
            control, reference = intact, None
            if stored:
                control = self._predicted(sequences, _unscaled(_edits(same[0])))
                reference = _reduced(control, control, every, tracked)
            for condition in same:
                changed = self._predicted(sequences, _edits(condition))
                measured = _reduced(control, changed, every, tracked)
                found[condition.name] = replace(measured, reference=reference)
        return {name: found[name] for name in [INTACT, *(condition.name for condition in conditions)]}

    def log_probabilities(self, ids: torch.Tensor) -> torch.Tensor:
        key = ids.numpy().tobytes() + bytes(str(tuple(ids.shape)), "ascii")
        if key not in self._read:
            predicted = self._predicted(ids.tolist())
            self._refuse_no_numbers(predicted)
            self._read[key] = predicted
        return torch.stack([_log_probabilities(each) for each in self._read[key]])

    def nll(self, sequences: Sequence[Sequence[int]], starts: Sequence[int]) -> list[Values]:
        return self._nll(sequences, starts)

    def nll_of(self, continuations: Sequence[Continuation]) -> list[float]:
        prompts = [self._subject.encode(item.prompt) for item in continuations]
        sequences = [[*prompt, *item.ids] for prompt, item in zip(prompts, continuations, strict=True)]
        return [float(each.mean()) for each in self._nll(sequences, [len(prompt) for prompt in prompts])]

    def rise_when_pruned(self, ids: torch.Tensor, prunes: Sequence[Scale]) -> float:
        sequences = ids.tolist()
        starts = [1] * len(sequences)
        control = self._nll(sequences, starts, _unscaled(prunes))
        pruned = self._nll(sequences, starts, prunes)
        return float(np.mean(np.concatenate(pruned) - np.concatenate(control)))

    def continue_greedily(
        self, prompts: Sequence[str], conditions: Sequence[Condition] = (), tokens: int = NEW_TOKENS
    ) -> dict[str, tuple[Continuation, ...]]:
        asked = [self._subject.encode(prompt) for prompt in prompts]
        # An early end of text is not compared with a full one.
        never = sorted(self._subject.ends)
        by_name = {}
        for name, edits in [(INTACT, ()), *((item.name, _edits(item)) for item in conditions)]:
            self._runner.load(edits)
            written = self._runner.write(asked, tokens, (), never)
            by_name[name] = tuple(
                Continuation(prompt, tuple(ids), str(self._subject.tokenizer.decode(ids)))
                for prompt, ids in zip(prompts, written, strict=True)
            )
        return by_name

    def reply(self, prompts: Sequence[Sequence[int]], tokens: int, ends: Sequence[int]) -> list[list[int]]:
        self._runner.load()
        return self._runner.write(prompts, tokens, ends, ())

    def accuracies(self, tasks: Tasks, prunes: Sequence[Scale] = ()) -> dict[str, Accuracy]:
        from superweight.engines.language_model import RunnerModel

        self._runner.load(prunes)
        return accuracies_of(RunnerModel(self._subject, self._runner), tasks)

    def free(self) -> None:
        self._read.clear()
        self._runner.free()

    def _stored_otherwise(self, condition: Condition) -> frozenset[str]:
        return self._runner.stored_otherwise(_edits(condition))

    def _predicted(self, sequences: Sequence[Sequence[int]], edits: Edits = ()) -> list[Logits]:
        self._runner.load(edits)
        return self._runner.predict(sequences)

    def _nll(
        self, sequences: Sequence[Sequence[int]], starts: Sequence[int], edits: Edits = ()
    ) -> list[Values]:
        values = []
        for logits, ids, start in zip(self._predicted(sequences, edits), sequences, starts, strict=True):
            predicted = _log_probabilities(logits[start - 1 :])
            values.append(token_nll(predicted, torch.tensor(ids[start:])).double().numpy())
        return values

    def _refuse_no_numbers(self, predicted: Sequence[Logits]) -> None:
        if any(np.isnan(each).any() for each in predicted):
            raise BrokenModel(f"the logits of {self._subject.name} hold NaN in {self.name}: it is damaged")


def _edits(condition: Condition) -> tuple[Scale | ScaleGain, ...]:
    return (*condition.scales, *condition.gains)


def _unscaled(edits: Edits) -> tuple[Scale | ScaleGain, ...]:
    """Return the edits that store the same tensors otherwise and change no number."""
    return tuple(replace(edit, factor=1.0) for edit in edits)


def _log_probabilities(logits: Logits) -> torch.Tensor:
    """Return the log-probabilities of logits: (tokens, V)."""
    return torch.from_numpy(np.array(logits)).float().log_softmax(-1)


def _reduced(
    control: Sequence[Logits], changed: Sequence[Logits], ids: torch.Tensor, tracked: torch.Tensor
) -> Measurement:
    """Return what is kept of two models' logits, a window at a time: they are as wide as the vocabulary."""

    def each() -> Iterator[Measurement]:
        for before, after, window in zip(control, changed, ids, strict=True):
            pair = _log_probabilities(before)[None], _log_probabilities(after)[None]
            yield reduced(*pair, window[None], tracked)

    return joined(list(each()))
