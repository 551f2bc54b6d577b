"""C9: without the super weights, stopwords become likelier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from superweight.claims.evidence import Evidence
from superweight.claims.sequential_verdict import SequentialTest, read_on
from superweight.claims.verdict import AT_LEAST, Claim, Criterion, Verdict, judged, measured, not_applicable
from superweight.core.statistics import Interval, jackknife
from superweight.measurement.conditions import PRUNED, alone
from superweight.measurement.evaluate import Measurement, Values
from superweight.measurement.sequential import Look
from superweight.measurement.token_groups import Vocabulary

CLAIM = Claim("C9", "Without the super weights, stopwords become likelier.", "Figure 5", of_predictions=True)

# "Likelier" is a ratio above one; the paper gives no size that would hold for all its models.
RATIO = 1.0


def judge(evidence: Evidence) -> Verdict:
    """Take the geometric mean, over the frozen stopwords, of probability after over before.

    Each word's probability is averaged over all positions first. Punctuation and content words
    are evidence, and so is each super weight pruned alone.
    """
    return read_on(evidence, sequential_test(evidence))


def sequential_test(evidence: Evidence) -> SequentialTest | Verdict:
    """Return the claim as a test that reads on; each super weight pruned alone is evidence."""
    if not evidence.scan.coordinates:
        return not_applicable(CLAIM, "no super weight is found")
    vocabulary = evidence.vocabulary
    if not vocabulary.knows_words:
        return not_applicable(CLAIM, "the tokenizer has no tokens for whole words")
    conditions = [PRUNED, *(alone(index) for index in range(len(evidence.scan.coordinates)))]
    return SequentialTest(lambda look: _judged(look, vocabulary, conditions), lambda look: (PRUNED,))


def _judged(look: Look, vocabulary: Vocabulary, conditions: Sequence[str]) -> Verdict:
    words = list(vocabulary.stopwords.values())
    before, after = (_by_group(item, vocabulary, words) for item in _before_and_after(look, PRUNED))
    ratios = after.mean(axis=0) / before.mean(axis=0)
    logs = jackknife(np.concatenate([before, after], axis=1), _mean_log_ratio)
    return judged(
        CLAIM,
        Criterion(
            "stopword probability after over before",
            measured(float(np.exp(np.log(ratios).mean()))),
            Interval(float(np.exp(logs.low)), float(np.exp(logs.high))),
            RATIO,
            AT_LEAST,
        ),
        ratios={
            condition: _ratios(look, vocabulary, condition)
            for condition in conditions
            if condition in look.measurements
        },
    )


def _before_and_after(look: Look, condition: str) -> tuple[Measurement, Measurement]:
    return look.reference(condition), look.measurements[condition]


def _by_group(item: Measurement, vocabulary: Vocabulary, groups: list[tuple[int, ...]]) -> Values:
    """Return each group's summed probability in each window: (windows, groups)."""
    column = {token: index for index, token in enumerate(vocabulary.tracked)}
    tracked = item.tracked
    return np.stack([tracked[:, [column[token] for token in group]].sum(axis=1) for group in groups], axis=1)


def _mean_log_ratio(means: Values) -> Values:
    before, after = np.split(means, 2, axis=1)
    return np.asarray(np.log(after / before).mean(axis=1))


def _ratios(look: Look, vocabulary: Vocabulary, condition: str) -> dict[str, object]:
    named = vocabulary.stopwords | vocabulary.punctuation
    groups = [*named.values(), *((token,) for token in vocabulary.content)]
    before, after = (_by_group(item, vocabulary, groups) for item in _before_and_after(look, condition))
    before = before[: len(after)]
    ratios = after.mean(axis=0) / before.mean(axis=0)
    content = float(np.median(ratios[len(named) :]))
    table = {word: measured(ratio) for word, ratio in zip(named, ratios, strict=False)}
    return {**table, "median content word": measured(content)}
