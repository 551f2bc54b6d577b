"""Continue prompts greedily, and tell whether the text has collapsed (Figure 1 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from superweight.detection.run_trace import padded
from superweight.measurement.batched_ablation import can_batch, run_batched
from superweight.measurement.conditions import INTACT, Condition
from superweight.measurement.evaluate import token_nll
from superweight.model.edits import edited
from superweight.model.subject import Subject

NEW_TOKENS = 40
# A loop is the same stretch of at most this many tokens, over and over to the end ...
_LONGEST_PERIOD = 10
# ... at least this often: three times may be rhetoric.
_REPEATS = 4


@dataclass(frozen=True)
class Continuation:
    """A greedy continuation of one prompt, ids and text, the prompt not included."""

    prompt: str
    ids: tuple[int, ...]
    text: str

    @property
    def loops(self) -> bool:
        """Whether it ends in a short stretch repeated over and over."""
        for period in range(1, _LONGEST_PERIOD + 1):
            tail = self.ids[-period * _REPEATS :]
            if len(tail) == period * _REPEATS and tail == tail[:period] * _REPEATS:
                return True
        return False

    @property
    def repeated_4grams(self) -> float:
        """The share of 4-grams that occurred before: 0 for none, near 1 for a loop."""
        return 1 - _distinct(self.ids, 4)

    @property
    def distinct_2(self) -> float:
        """The share of 2-grams that differ."""
        return _distinct(self.ids, 2)


def _distinct(ids: Sequence[int], n: int) -> float:
    grams = [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def continue_greedily(
    subject: Subject,
    prompts: Sequence[str],
    conditions: Sequence[Condition] = (),
    tokens: int = NEW_TOKENS,
) -> dict[str, tuple[Continuation, ...]]:
    """Continue every prompt by ``tokens`` greedy tokens, intact and under every condition.

    Returns the continuations by condition name, `INTACT` among them. All conditions write side by
    side in one batch, padded on the left; where one changes a routed expert, one after the other.
    """
    if can_batch(subject, conditions):
        with run_batched(subject, conditions, len(prompts), from_start=True) as rows:
            written = _continued(subject, list(prompts) * len(rows), tokens)
        return {name: written[own] for name, own in rows.items()}
    by_name = {INTACT: _continued(subject, prompts, tokens)}
    for condition in conditions:
        with edited(subject, condition.scales):
            by_name[condition.name] = _continued(subject, prompts, tokens)
    return by_name


def _continued(subject: Subject, prompts: Sequence[str], tokens: int) -> tuple[Continuation, ...]:
    encoded = [subject.encode(prompt) for prompt in prompts]
    longest = max(map(len, encoded))
    ids = torch.zeros(len(encoded), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(encoded):
        ids[row, longest - len(sequence) :] = torch.tensor(sequence)
        mask[row, longest - len(sequence) :] = 1
    with torch.no_grad():
        generated = subject.model.generate(  # type: ignore[operator]  # stubs see a Tensor here
            input_ids=ids.to(subject.device),
            attention_mask=mask.to(subject.device),
            do_sample=False,
            num_beams=1,
            max_new_tokens=tokens,
            min_new_tokens=tokens,  # an early end of text is not compared with a full one
            pad_token_id=0,
            use_cache=True,
        )
    rows = generated[:, longest:].tolist()
    return tuple(
        Continuation(prompt, tuple(row), str(subject.tokenizer.decode(row)))
        for prompt, row in zip(prompts, rows, strict=True)
    )


def nll_of(subject: Subject, continuations: Sequence[Continuation]) -> list[float]:
    """Return the mean NLL per token, in nats, that a subject gives each continuation."""
    prompts = [subject.encode(item.prompt) for item in continuations]
    sequences = [[*prompt, *item.ids] for prompt, item in zip(prompts, continuations, strict=True)]
    ids, mask = padded(subject, sequences)
    with torch.no_grad():
        logits = subject.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    values = []
    for row, prompt, sequence in zip(range(len(ids)), prompts, sequences, strict=True):
        own = slice(len(prompt) - 1, len(sequence) - 1)
        predicted = logits[row, own].float().log_softmax(-1)
        values.append(float(token_nll(predicted, ids[row, len(prompt) : len(sequence)]).mean()))
    return values
