"""C9 by hand: what the probabilities of stopwords, marks and content words come to."""

from __future__ import annotations

import numpy as np
import pytest

from superweight.claims.paper import stopwords
from superweight.claims.verdict import INCONCLUSIVE, NOT_APPLICABLE, REFUTED, SUPPORTED
from superweight.measurement.conditions import INTACT, PRUNED, alone
from superweight.measurement.evaluate import Measurement
from superweight.measurement.sequential import Look
from superweight.measurement.token_groups import STOPWORDS, Vocabulary
from tests.helpers.evidence import evidence

# Each stopword has two spellings, which count together; the ids stand in no order.
WORDS = Vocabulary(
    stopwords={word: (90 - 2 * index, 91 - 2 * index) for index, word in enumerate(STOPWORDS)},
    punctuation={".": (7,), ",": (3,)},
    content=(50, 20, 40),
)
WINDOWS = 8


def measurement(**factors):
    """Return what a condition makes of probabilities that differ between words and windows.

    ``factors`` multiply those of stopwords, of punctuation and of content words.
    """
    tracked = np.linspace(0.01, 0.02, WINDOWS)[:, None] * np.linspace(1, 2, len(WORDS.tracked))
    counts = {"stopwords": 2 * len(STOPWORDS), "punctuation": 2, "content": 3}
    each = [np.broadcast_to(factors.get(name, 1.0), count) for name, count in counts.items()]
    nothing = np.zeros(WINDOWS)
    return Measurement(nothing[:, None], nothing, nothing, tracked * np.concatenate(each))


def pruned_by(pruned, *, found=("super weight",), vocabulary=WORDS, others=None):
    look = Look(WINDOWS, {INTACT: measurement(), PRUNED: pruned, **(others or {})})
    return evidence(look, found=found, vocabulary=vocabulary)


@pytest.mark.parametrize(("factor", "status"), [(2.0, SUPPORTED), (1.0, SUPPORTED), (0.5, REFUTED)])
def test_the_ratio_decides(factor, status):
    """Twice as likely, as likely, half as likely; the same in every window, so without a spread."""
    verdict = stopwords.judge(pruned_by(measurement(stopwords=factor)))
    (criterion,) = verdict.criteria
    assert status == verdict.status
    assert factor == pytest.approx(criterion.statistic.value)
    assert (factor, factor) == pytest.approx((criterion.interval.low, criterion.interval.high))


def test_the_mean_over_words_is_geometric():
    """Half of them eight times likelier, half of them half as likely: twice, not four times and a bit."""
    factors = np.repeat([8.0, 0.5], len(STOPWORDS))
    verdict = stopwords.judge(pruned_by(measurement(stopwords=factors)))
    assert 2.0 == pytest.approx(verdict.criteria[0].statistic.value)


def test_windows_that_disagree_leave_it_open():
    """Twice as likely in one half of the text and half as likely in the other: no verdict."""
    mixed = measurement()
    mixed.tracked[::2] *= 2
    mixed.tracked[1::2] /= 2
    verdict = stopwords.judge(pruned_by(mixed))
    interval = verdict.criteria[0].interval
    assert INCONCLUSIVE == verdict.status
    assert interval.low < 1 < interval.high


def test_words_and_marks_are_told_one_by_one():
    """Every word's own ratio, the marks', and the median content word's, for every condition at hand."""
    pruned = measurement(
        stopwords=np.repeat([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2),
        punctuation=(7.0, 8.0),
        content=(0.1, 0.3, 0.2),
    )
    verdict = stopwords.judge(pruned_by(pruned, others={alone(0): measurement(stopwords=2.0)}))
    ratios = {
        name: {word: number.value for word, number in table.items()}
        for name, table in verdict.evidence["ratios"].items()
    }
    expected = {word: index + 1.0 for index, word in enumerate(STOPWORDS)}
    assert expected | {".": 7.0, ",": 8.0, "median content word": 0.2} == pytest.approx(ratios[PRUNED])
    assert 2.0 == pytest.approx(ratios[alone(0)]["the"])
    assert 1.0 == pytest.approx(ratios[alone(0)]["median content word"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"found": ()}, "no super weight is found"),
        ({"vocabulary": Vocabulary({}, {}, ())}, "the tokenizer has no tokens for whole words"),
    ],
)
def test_a_model_of_which_it_says_nothing(changes, reason):
    """Without super weights, or without words, the claim says nothing."""
    verdict = stopwords.judge(pruned_by(measurement(stopwords=2.0), **changes))
    assert (NOT_APPLICABLE, reason) == (verdict.status, verdict.reason)
