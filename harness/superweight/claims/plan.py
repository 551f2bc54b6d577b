"""Plan a check before it measures: conditions, windows, token-blocks and seconds, claim by claim.

A token-block is one token that one block computes on. How many each claim takes is counted from what the
scan found; what they take in seconds, from one timed pass over a few windows of the same text.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from superweight.core.statistics import looks
from superweight.measurement.conditions import (
    INTACT,
    OTHER_OUTLIERS,
    PRUNED,
    RESTORED_ACTIVATION,
    SCALES,
    Condition,
    scaled,
)
from superweight.measurement.corpus import continuations, prompts
from superweight.measurement.evaluate import LOGITS_BYTES, batch_of, measure
from superweight.measurement.generation import NEW_TOKENS
from superweight.measurement.hidden_states import decode_one_by_one
from superweight.quantization.clip_search import Z_SCORES

if TYPE_CHECKING:
    from superweight.claims.evidence import Evidence

# Those that the criteria of C3, C4, C8, C9 and C10 rest on: only they are read on.
DECISIVE = (PRUNED, OTHER_OUTLIERS, RESTORED_ACTIVATION, *map(scaled, SCALES))
# How many times the intact model reads one window for C7.
_RESTORING_PASSES = 3
# What a pass with everything rounded takes of a plain one, rounding included (docs/performance.md).
_ROUNDED_COSTS = 1.3
# Whole streams that a block holds beside its MLP's three products: in, normed, query to value, out.
_STREAMS = 6


@dataclass(frozen=True)
class Range:
    """The least that is needed, and the most where everything stays in doubt to the end."""

    least: float
    most: float


@dataclass(frozen=True)
class Step:
    """What some claims measure together: ``conditions`` on ``windows``; both ends of what that costs."""

    claims: tuple[str, ...]
    what: str
    conditions: int
    windows: Range
    token_blocks: Range
    seconds: Range


@dataclass(frozen=True)
class Plan:
    """The steps of a check, in the paper's order. ``memory`` is in bytes, beyond what the weights take."""

    model: str
    blocks: int
    window_tokens: int
    seconds_per_token_block: float
    memory: int
    steps: tuple[Step, ...]

    @property
    def seconds(self) -> Range:
        return Range(*(sum(getattr(step.seconds, end) for step in self.steps) for end in ("least", "most")))

    @property
    def token_blocks(self) -> Range:
        ends = ("least", "most")
        return Range(*(sum(getattr(step.token_blocks, end) for step in self.steps) for end in ends))

    def step_of(self, claim: str) -> Step | None:
        """Return the step that measures for a claim; None for one that the scan has answered already."""
        return next((step for step in self.steps if claim in step.claims), None)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values, with the sums."""
        sums = {"token_blocks": asdict(self.token_blocks), "seconds": asdict(self.seconds)}
        return asdict(self) | sums


def plan_of(evidence: Evidence) -> Plan:
    """Plan the claims of a subject that has been scanned; one pass over a batch of windows is timed."""
    subject, found = evidence.subject, evidence.scan
    blocks, tokens = len(subject.architecture.blocks), evidence.windows.ids.shape[1]
    timed = seconds_per_token_block(evidence)
    conditions = evidence.conditions if found.coordinates else ()
    longest = max(len(subject.encode(text)) for text in prompts().values())
    all_prompts = len(prompts()) * longest * blocks
    every = looks(len(evidence.windows.ids))
    steps = []

    def add(claims: Sequence[str], what: str, count: int, windows: Range, least: float, most: float) -> None:
        cost = Range(least, most)
        seconds = Range(least * timed, most * timed)
        steps.append(Step(tuple(claims), what, count, windows, cost, seconds))

    if found.strongest is not None:
        add(["C2", "C6"], "nine prompts", 1, Range(0, 0), all_prompts, all_prompts)
    if found.coordinates:
        add(["C5"], "nine prompts, pruned", 1, Range(0, 0), all_prompts, all_prompts)
        window = _RESTORING_PASSES * tokens * blocks
        add(["C7"], "one window three times", 2, Range(1, 1), window, window)
        first = every[0] * tokens * per_token(blocks, conditions)
        rest = (every[-1] - every[0]) * tokens * per_token(blocks, _decisive(conditions))
        sequential = ["C3", "C4", "C8", "C9", "C10"]
        extent = Range(every[0], every[-1])
        add(sequential, "looks that all share", 1 + len(conditions), extent, first, first + rest)
        rows = 2 * len(continuations())
        written = rows * (longest + NEW_TOKENS) * blocks * 2
        add(["C11"], "continuations, intact and pruned", 2, Range(0, 0), written, written)
    if found.super_activations:
        counts = [min(16, every[-1]), every[-1]]
        least, most = (_ROUNDED_COSTS * 2 * count * tokens * blocks for count in counts)
        add(["C12"], "W8A8, with and without the activation", 2, Range(*counts), least, most)
    if found.coordinates:
        chosen = 2 * len(Z_SCORES) * evidence.calibration_windows * tokens * blocks
        counts = [every[0], max(every[0], every[-1] - evidence.calibration_windows)]
        least, most = (_ROUNDED_COSTS * (chosen + 4 * count * tokens * blocks) for count in counts)
        add(["C13"], "INT4 in two block sizes, plain and held out", 4, Range(*counts), least, most)
    return Plan(
        subject.name, blocks, tokens, timed, _memory(evidence, tokens, 1 + len(conditions)), tuple(steps)
    )


def per_token(blocks: int, conditions: Sequence[Condition]) -> int:
    """Return how many blocks compute on each token: all for the intact model, later ones for conditions."""
    return blocks + sum(blocks - condition.first_block for condition in conditions)


def _decisive(conditions: Sequence[Condition]) -> list[Condition]:
    return [condition for condition in conditions if condition.name in DECISIVE]


def seconds_per_token_block(evidence: Evidence) -> float:
    """Time one pass over a batch of windows, head and loss included: seconds for each token-block."""
    subject = evidence.subject
    few = evidence.windows.first(min(batch_of(subject), len(evidence.windows.ids)))
    decode_one_by_one(subject, torch.from_numpy(few.ids[:1]).to(subject.device), [])  # warms up
    begin = time.perf_counter()
    nll = measure(subject, few, [])[INTACT].nll
    taken = time.perf_counter() - begin
    count: int = len(nll) * few.ids.shape[1] * len(subject.architecture.blocks)
    return taken / count


def _memory(evidence: Evidence, tokens: int, conditions: int) -> int:
    """Return what the first look takes: the streams of all conditions in one block, and pieces of logits."""
    subject, architecture = evidence.subject, evidence.subject.architecture
    rows = conditions * batch_of(subject, conditions) * tokens
    widest = max(projection.intermediate for projection in architecture.projections)
    held = rows * (_STREAMS * architecture.hidden + 3 * widest) * subject.model.dtype.itemsize
    vocabulary = int(subject.model.get_output_embeddings().weight.shape[0])
    # Intact, changed, and two of the same size while they are compared.
    return held + 4 * max(LOGITS_BYTES, 4 * vocabulary * tokens)
