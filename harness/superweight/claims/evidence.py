"""Measure everything that the claims need of one model, each thing once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from superweight.claims.budget import Budget
from superweight.claims.sequential_verdict import SequentialTest
from superweight.claims.verdict import Verdict
from superweight.core.statistics import LOOKS
from superweight.detection.detect import Detection, detect
from superweight.detection.run_trace import trace_batch
from superweight.detection.scan import Scan, scan
from superweight.detection.trace import Trace
from superweight.engines.engine import Engine
from superweight.engines.in_transformers import TransformersEngine
from superweight.measurement.conditions import (
    INTACT,
    PRUNED,
    Condition,
    alone,
    controls,
    pruned,
    singled_out,
    treatments,
)
from superweight.measurement.corpus import Windows, continuations, cut, default_prompt, documents, prompts
from superweight.measurement.generation import Continuation
from superweight.measurement.sequential import SequentialEvaluation
from superweight.measurement.token_groups import Vocabulary, classify
from superweight.model.devices import multiply_in_float32
from superweight.model.edits import Scale, edited
from superweight.model.subject import Subject
from superweight.quantization.losses import split
from superweight.quantization.sequential_sweep import SequentialSweep

# What practice uses, and the paper's largest; `superweight sweep` has all six in between.
BLOCK_SIZES = (64, 1024**2)
# Windows that clipping is chosen on; none of them is measured on.
CALIBRATION_WINDOWS = 4

# Turns evidence into a test that reads on, or into the verdict where there is nothing to read.
MakeTest = Callable[["Evidence"], SequentialTest | Verdict]


class Evidence:
    """What was measured of one subject; every property is computed on first use.

    ``tests`` are the claims that share what is measured of further windows, while they are in doubt.
    """

    def __init__(
        self,
        subject: Subject,
        corpus: str,
        base: Scan | None = None,
        load_engine: Callable[[Subject], Engine] | None = None,
        tests: Sequence[MakeTest] = (),
    ) -> None:
        """Measure predictions and text in the engine that is loaded so, all else in transformers.

        Left out, everything is measured there.
        """
        self.subject = subject
        self.corpus = corpus
        self.base = base
        self.stream = TransformersEngine(subject)
        self._load_engine = load_engine
        self._tests = tests
        self.budget: Budget | None = None

    @cached_property
    def engine(self) -> Engine:
        """What runs the model for predictions and text. Raises `EngineFailed` where it does not."""
        return self.stream if self._load_engine is None else self._load_engine(self.subject)

    def free(self) -> None:
        """Let go of the engine, if it was loaded; predictions and text are not measured any more."""
        if (engine := self.peek("engine")) is not None:
            engine.free()

    @cached_property
    def scan(self) -> Scan:
        return scan(self.subject, default_prompt())

    @cached_property
    def intact_traces(self) -> dict[str, Trace]:
        return self._traces()

    @cached_property
    def pruned_traces(self) -> dict[str, Trace]:
        with edited(self.subject, self.pruned_set):
            return self._traces()

    @cached_property
    def detections(self) -> dict[str, Detection]:
        """What every prompt shows by itself."""
        return {name: detect(trace) for name, trace in self.intact_traces.items()}

    @property
    def pruned_set(self) -> tuple[Scale, ...]:
        return pruned(self.scan.coordinates)

    @cached_property
    def windows(self) -> Windows:
        return cut(self.subject, documents(self.corpus), self.corpus)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return classify(self.subject, self.windows)

    @cached_property
    def sequential(self) -> SequentialEvaluation:
        """The intact model and every condition that some claim needs, on as many windows as are needed.

        Measured in the engine; what it cannot do to a model is left out.
        """
        return self._evaluation(self.engine)

    @cached_property
    def sequential_of_stream(self) -> SequentialEvaluation:
        """The same in transformers, where the stream itself can be changed and weights rounded."""
        return self.sequential if self.engine is self.stream else self._evaluation(self.stream)

    def _evaluation(self, engine: Engine) -> SequentialEvaluation:
        made = [test for make in self._tests if isinstance(test := make(self), SequentialTest)]
        if self.engine is not self.stream:
            # Each engine reads on for its own tests.
            made = [test for test in made if test.of_stream == (engine is self.stream)]
        return SequentialEvaluation(
            self.subject,
            self.windows,
            [condition for condition in self.conditions if engine.can_measure(condition)],
            self.vocabulary.tracked,
            engine.measure,
            # What C3 and C9 say beyond the loss is of these.
            details=[PRUNED, *(alone(index) for index in singled_out(self.scan))],
            tests=[test.needs for test in made],
            affords=self.affords,
        )

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """Every condition that the looks measure: treatments of what was found, and controls."""
        return (*treatments(self.scan), *controls(self.subject, self.scan))

    def affords(self, token_blocks: float) -> bool:
        """Tell whether the budget, if there is one, has room for so many token-blocks more."""
        return self.budget is None or self.budget.affords(token_blocks)

    @property
    def calibration_windows(self) -> int:
        """How many windows clipping is chosen on."""
        return CALIBRATION_WINDOWS

    @cached_property
    def rounded_weights(self) -> SequentialSweep:
        """What INT4 weights lose in the smallest and in the largest blocks, on as much text as is needed.

        Raises `BadInput` where there is too little text.
        """
        text = split(self.windows.shuffled(), LOOKS[-1], CALIBRATION_WINDOWS)
        each = 4 * text.measured.shape[1] * len(self.subject.architecture.blocks)
        return SequentialSweep(
            self.subject,
            self.scan,
            text,
            BLOCK_SIZES,
            self.sequential_of_stream.intact,
            affords=lambda windows: self.affords(windows * each),
        )

    @property
    def intact_writing(self) -> tuple[Continuation, ...]:
        return self.writing[INTACT]

    @property
    def pruned_writing(self) -> tuple[Continuation, ...]:
        return self.writing[PRUNED]

    def place_of(self, verdict: Verdict) -> tuple[str, str]:
        """Return device and dtype by which the baseline of a verdict lies."""
        return self._engine_of(verdict).place

    def provenance_of(self, verdict: Verdict) -> dict[str, Any]:
        """Return what was measured, on what, and in which engine where that is not the model's own pass."""
        return {**self.subject.provenance.as_dict(), **self._engine_of(verdict).described}

    def verdict(self, judge: Callable[[Evidence], Verdict]) -> Verdict:
        """Judge a claim or property; the verdict names the engine that was asked for it."""
        multiply_in_float32()  # another test of the same process may have asked for less
        given = judge(self)
        return replace(given, engine=self._engine_of(given).name)

    def _engine_of(self, verdict: Verdict) -> Engine:
        return self.engine if verdict.claim.of_predictions else self.stream

    def peek(self, name: str) -> Any:
        """Return a property that was measured already, or None; nothing is measured."""
        if not isinstance(getattr(type(self), name, None), cached_property):
            raise AttributeError(f"{name!r} is nothing that is measured once")
        return vars(self).get(name)

    @cached_property
    def writing(self) -> dict[str, tuple[Continuation, ...]]:
        conditions = [Condition(PRUNED, self.pruned_set)] if self.pruned_set else []
        return self.engine.continue_greedily(list(continuations().values()), conditions)

    def judged_by_intact(self, writing: Sequence[Continuation]) -> list[float]:
        """Return the NLL per token that the intact model gives to each continuation."""
        return self.engine.nll_of(writing)

    def _traces(self) -> dict[str, Trace]:
        encoded = [self.subject.encode(text) for text in prompts().values()]
        return dict(zip(prompts(), trace_batch(self.subject, encoded), strict=True))
