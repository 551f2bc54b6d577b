"""P4: padding, neighbours in the batch and the cache change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import event
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from superweight.claims.evidence import Evidence
from superweight.claims.properties.search import Budget, Finding, search, verdict_of
from superweight.claims.verdict import Claim, Verdict, not_applicable
from superweight.detection.detect import Detection, detect
from superweight.detection.run_trace import trace_batch
from superweight.model.subject import Subject
from superweight.strategies import Prompt, prompts

CLAIM = Claim(
    "P4", "Padding, neighbours in the batch and the cache change neither set nor activation.", "section 3.1"
)
SEARCHED = "in batches"
SAME = "the same set and activation"
# In rounding steps of the dtype: a kernel may add in another order in a batch of another shape, and the
# activation is a sum over some thousand products.
STEPS = 256
_MOST_TOKENS = 24


@dataclass(frozen=True)
class Batch:
    """A prompt among others: at ``place`` of the batch, padded on one side, with or without cache."""

    prompt: Prompt
    others: tuple[Prompt, ...]
    place: int
    left: bool
    use_cache: bool


def judge(evidence: Evidence, budget: Budget) -> Verdict:
    """Draw batches, and compare what a prompt shows in one with what it shows alone."""
    if not evidence.scan.coordinates:
        return not_applicable(CLAIM, "no super weight is found")
    model = evidence.subject

    def judge_all(examples: Sequence[Batch]) -> list[Finding]:
        return [_finding(model, batch) for batch in examples]

    return verdict_of(CLAIM, {SEARCHED: search(f"P4 {model.name}", batches(model), judge_all, budget)})


def batches(model: Subject) -> SearchStrategy[Batch]:
    """Draw a prompt, up to three neighbours, a side of padding, and whether there is a cache."""
    prompt = prompts(model, max_tokens=_MOST_TOKENS, bos=True)

    def batch(one: Prompt, others: list[Prompt], place: int, left: bool, use_cache: bool) -> Batch:
        event(f"neighbours: {len(others)}")
        event("padded on the left" if left else "padded on the right")
        return Batch(one, tuple(others), place % (len(others) + 1), left, use_cache)

    others = st.lists(prompt, min_size=0, max_size=3)
    return st.builds(batch, prompt, others, st.integers(0, 3), st.booleans(), st.booleans())


def _finding(model: Subject, batch: Batch) -> Finding:
    sequences = [other.ids for other in batch.others]
    sequences.insert(batch.place, batch.prompt.ids)
    together = trace_batch(model, sequences, left=batch.left, use_cache=batch.use_cache)
    alone, within = detect(trace_batch(model, [batch.prompt.ids])[0]), detect(together[batch.place])
    if alone.coordinates == within.coordinates and _as_large(alone, within, model.relative_step):
        return Finding(SAME)
    told = {
        "text": batch.prompt.text,
        "others": [other.text for other in batch.others],
        "place": batch.place,
        "padded": "left" if batch.left else "right",
        "cache": batch.use_cache,
        "alone": _shown(alone),
        "in the batch": _shown(within),
    }
    return Finding("another set or activation", told)


def _as_large(one: Detection, other: Detection, step: float) -> bool:
    """Tell whether the strongest activations sit at the same places and are equal within rounding."""
    pairs = list(zip(one.strongest, other.strongest, strict=False))
    return len(one.strongest) == len(other.strongest) and all(
        (mine.channel, mine.token) == (theirs.channel, theirs.token)
        and abs(mine.magnitude - theirs.magnitude) <= STEPS * step * abs(mine.magnitude)
        for mine, theirs in pairs
    )


def _shown(detection: Detection) -> dict[str, object]:
    return {
        "found": [str(place) for place in sorted(detection.coordinates)],
        "activations": [
            f"channel {each.channel}, token {each.token}: {each.magnitude:.6g}"
            for each in detection.strongest
        ],
    }
