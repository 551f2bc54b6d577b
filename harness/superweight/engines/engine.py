"""Define what claims and comparisons ask of an engine: what a model predicts and writes, edited and not.

They do not know which engine they ask. One that runs in another program is a `Runner`, four functions
and a name; `superweight.engines.measured` makes an engine of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from superweight.measurement.conditions import Condition
from superweight.measurement.corpus import Windows
from superweight.measurement.evaluate import Measurement, Values
from superweight.measurement.generation import NEW_TOKENS, Continuation
from superweight.measurement.zero_shot import Accuracy, Tasks
from superweight.model.edits import Scale, ScaleGain

TRANSFORMERS, LLAMA_CPP = "transformers", "llama.cpp"
ENGINES = (TRANSFORMERS, LLAMA_CPP)

Logits = NDArray[np.float32]


class Engine(Protocol):
    """A loaded model whose predictions and text are measured; edits last for one call each.

    Raises `EngineFailed` where the engine stops, and `EditFailed` where an edit does not take effect.
    """

    @property
    def name(self) -> str:
        """One of `ENGINES`."""

    @property
    def place(self) -> tuple[str, str]:
        """Device and dtype, by which baselines lie; the device of another engine begins with its name."""

    @property
    def described(self) -> Mapping[str, Any]:
        """What a record says of the engine beside what it says of the model; empty for transformers."""

    def measure(
        self,
        windows: Windows,
        conditions: Sequence[Condition],
        tracked_ids: Sequence[int] = (),
        details: Collection[str] | None = None,
    ) -> dict[str, Measurement]:
        """Measure the intact model and every condition on the same windows, by name.

        Where ``details`` is given, an engine may measure the losses alone of the conditions it does not name.
        """

    def can_measure(self, condition: Condition) -> bool:
        """Tell whether the engine can change the model so: an activation is not put back everywhere."""

    def log_probabilities(self, ids: torch.Tensor) -> torch.Tensor:
        """Return what is predicted of (windows, tokens) ids: (windows, tokens - 1, V)."""

    def nll(self, sequences: Sequence[Sequence[int]], starts: Sequence[int]) -> list[Values]:
        """Return the NLL, in nats, of each token of each sequence from its start on."""

    def nll_of(self, continuations: Sequence[Continuation]) -> list[float]:
        """Return the mean NLL per token that the intact model gives each continuation."""

    def rise_when_pruned(self, ids: torch.Tensor, prunes: Sequence[Scale]) -> float:
        """Return by how many nats a token pruning raises the NLL of (windows, tokens) ids."""

    def continue_greedily(
        self, prompts: Sequence[str], conditions: Sequence[Condition] = (), tokens: int = NEW_TOKENS
    ) -> dict[str, tuple[Continuation, ...]]:
        """Continue every prompt by ``tokens``, intact and under every condition, by name."""

    def reply(self, prompts: Sequence[Sequence[int]], tokens: int, ends: Sequence[int]) -> list[list[int]]:
        """Continue each prompt greedily up to a token of ``ends``, or by ``tokens``."""

    def accuracies(self, tasks: Tasks, prunes: Sequence[Scale] = ()) -> dict[str, Accuracy]:
        """Return the accuracy of each zero-shot task with some scalars pruned."""

    def free(self) -> None:
        """Give back what the engine holds; it is not asked again."""


class Runner(Protocol):
    """A program that runs a model's file: it loads it, edited or not, predicts, writes, and is ended."""

    @property
    def name(self) -> str:
        """One of `ENGINES`."""

    @property
    def place(self) -> tuple[str, str]:
        """As `Engine.place`."""

    @property
    def described(self) -> Mapping[str, Any]:
        """As `Engine.described`."""

    def load(self, edits: Sequence[Scale | ScaleGain] = ()) -> None:
        """Load the model with some scalars scaled, in place of what was loaded before.

        Raises `EditFailed` where a scalar is not what it should be.
        """

    def stored_otherwise(self, edits: Sequence[Scale | ScaleGain]) -> frozenset[str]:
        """Return what is stored in another type for the sake of these edits, by name.

        The same edits with factors of 1 then give the model that they are compared with.
        """

    def predict(self, sequences: Sequence[Sequence[int]]) -> list[Logits]:
        """Return the logits behind every token but the last of each sequence: (tokens - 1, V) each."""

    def write(
        self, prompts: Sequence[Sequence[int]], tokens: int, ends: Sequence[int], never: Sequence[int]
    ) -> list[list[int]]:
        """Continue each prompt greedily up to a token of ``ends``; those of ``never`` are not written."""

    def free(self) -> None:
        """End the program, and remove what was written for it."""
