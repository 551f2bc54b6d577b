"""Claims by hand: what each makes of numbers that are written down, and when it says nothing."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from superweight.claims.paper import (
    activation_quantization,
    activation_restoration,
    generation,
    one_pass,
    other_outliers,
    persistence,
    suppression,
    weight_quantization,
    weight_restoration,
)
from superweight.claims.verdict import INCONCLUSIVE, NOT_APPLICABLE, REFUTED, SUPPORTED
from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput
from superweight.detection.detect import Detection, SuperActivation, SuperWeight
from superweight.measurement.conditions import (
    INTACT,
    OTHER_OUTLIERS,
    PRUNED,
    RANDOM,
    RESTORED_ACTIVATION,
    SAME_MATRIX,
)
from superweight.measurement.corpus import Windows
from superweight.measurement.evaluate import Measurement
from superweight.measurement.sequential import Look
from superweight.quantization.sweep import HELD_OUT, NAIVE, BlockSize
from tests.helpers.evidence import evidence

WINDOWS = 8
PLACE, OTHER = Coordinate(1, 5, 3), Coordinate(2, 5, 4)
# In nats; they differ between windows, so that intervals have a width.
SPREAD = np.linspace(0.95, 1.05, WINDOWS)


def looked(claim, damages, *, found=(PLACE,)):
    """Judge a claim on one look at which each condition raised the NLL by so much."""
    nothing = np.zeros(WINDOWS)
    measurements = {
        name: Measurement((3.0 + damage)[:, None], nothing, nothing, nothing[:, None])
        for name, damage in {INTACT: nothing, **damages}.items()
    }
    return claim.judge(evidence(Look(WINDOWS, measurements), found=found))


@pytest.mark.parametrize(
    ("left", "share", "status"), [(0.0, 1.0, SUPPORTED), (4.5, 0.1, SUPPORTED), (4.9, 0.02, REFUTED)]
)
def test_the_share_won_back_is_of_what_was_lost(left, share, status):
    """Five nats lost; all, a tenth and a fiftieth of it won back."""
    damages = {PRUNED: 5.0 * SPREAD, RESTORED_ACTIVATION: left * SPREAD}
    verdict = looked(activation_restoration, damages)
    (criterion,) = verdict.criteria
    assert (status, share) == (verdict.status, pytest.approx(criterion.statistic.value))
    assert (share, share) == pytest.approx((criterion.interval.low, criterion.interval.high))
    assert max(0.01, 0.02 * share) == pytest.approx(criterion.statistic.within)
    perplexities = verdict.evidence["perplexities"]
    assert np.exp(3.0) == pytest.approx(perplexities[INTACT].value)
    assert np.exp(8.0) == pytest.approx(perplexities[PRUNED].value)


@pytest.mark.parametrize(
    ("others", "share", "status"), [(0.25, 0.05, SUPPORTED), (0.0, 0.0, SUPPORTED), (1.0, 0.2, REFUTED)]
)
def test_the_share_of_damage_is_of_the_sets(others, share, status):
    """Five nats by the set; a twentieth, nothing and a fifth of it by the others."""
    damages = {PRUNED: 5.0 * SPREAD, OTHER_OUTLIERS: others * SPREAD}
    damages |= {SAME_MATRIX: 0.5 * SPREAD, RANDOM: 0.0 * SPREAD}
    verdict = looked(other_outliers, damages)
    (criterion,) = verdict.criteria
    assert (status, share) == (verdict.status, pytest.approx(criterion.statistic.value))
    assert (share, share) == pytest.approx((criterion.interval.low, criterion.interval.high))
    ratios = {name: number.value for name, number in verdict.evidence["ratios"].items()}
    expected = {OTHER_OUTLIERS: np.exp(others), SAME_MATRIX: np.exp(0.5), RANDOM: 1.0}
    assert expected == pytest.approx(ratios)


@pytest.mark.parametrize("claim", [activation_restoration, other_outliers])
@pytest.mark.parametrize(
    ("lost", "says"),
    [(0.5, True), (0.0, False), (-0.5, False), (-5.0, False)],
    ids=["half a nat", "nothing", "a gain", "a large gain"],
)
def test_shares_of_nothing_are_not_taken(claim, lost, says):
    """Where pruning does no damage beyond doubt, no share of it means anything."""
    names = (PRUNED, RESTORED_ACTIVATION, OTHER_OUTLIERS, SAME_MATRIX, RANDOM)
    verdict = looked(claim, {name: (lost if name == PRUNED else 0.01) * SPREAD for name in names})
    assert says == (NOT_APPLICABLE != verdict.status)
    noise = np.where(np.arange(WINDOWS) % 2, 1.0, -0.9)
    doubtful = looked(claim, {name: noise if name == PRUNED else 0.01 * SPREAD for name in names})
    assert NOT_APPLICABLE == doubtful.status


@pytest.mark.parametrize("claim", [activation_restoration, other_outliers])
@pytest.mark.parametrize(
    ("lost", "reads_on"),
    [
        (0.0 * SPREAD, False),
        (0.009 * SPREAD, False),
        (0.0101 * SPREAD, True),
        (np.resize([1.0, -0.9], 8), True),
    ],
    ids=["nothing", "less than a hundredth", "a hundredth", "doubt"],
)
def test_of_a_loss_that_is_certainly_none_no_more_text_is_read(claim, lost, reads_on):
    """It would stay without a share; where the loss is in doubt, more text may show one."""
    nothing = np.zeros(WINDOWS)
    rises = {INTACT: nothing, PRUNED: lost, RESTORED_ACTIVATION: nothing, OTHER_OUTLIERS: nothing}
    measured = {
        name: Measurement((3.0 + rise)[:, None], nothing, nothing, nothing[:, None])
        for name, rise in rises.items()
    }
    test = claim.sequential_test(evidence(found=(PLACE,)))
    assert reads_on is bool(test.rests_on(Look(WINDOWS, measured)))


@pytest.mark.parametrize("claim", [activation_restoration, other_outliers])
def test_without_super_weights_nothing_is_said(claim):
    """And nothing is looked at."""
    assert NOT_APPLICABLE == looked(claim, {}, found=()).status


def detection(*places, magnitude=1000.0, onset=1, last=6, more=()):
    activation = SuperActivation(channel=5, token=0, onset=onset, last=last, magnitude=magnitude)
    weights = tuple(SuperWeight(place, 8.0, 100.0, 800.0, 1.0, 0, 1.0) for place in places)
    return Detection((activation, *more), weights, ())


LESSER = SuperActivation(channel=9, token=0, onset=1, last=6, magnitude=300.0)


def test_every_prompt_must_find_the_same_set():
    """One more, one less and another are astray alike, and named; magnitudes are of the largest."""
    found = {
        "same": detection(PLACE, magnitude=-900.0, more=(LESSER,)),
        "too": detection(PLACE, magnitude=1200.0),
    }
    astray = {"more": detection(PLACE, OTHER), "other": detection(OTHER), "none": Detection((), (), ())}
    scan = SimpleNamespace(coordinates=(PLACE,), parts={PLACE: 1.0}, making_gains=())
    agreed = one_pass.judge(evidence(scan=scan, detections=found))
    assert (SUPPORTED, 1.0) == (agreed.status, agreed.criteria[0].statistic.value)
    assert {} == agreed.evidence["astray"]
    assert (900.0, 1200.0) == tuple(
        agreed.evidence[name].value for name in ("least_magnitude", "greatest_magnitude")
    )
    apart = one_pass.judge(evidence(scan=scan, detections=found | astray))
    assert (REFUTED, 0.4) == (apart.status, pytest.approx(apart.criteria[0].statistic.value))
    assert {"more": [str(PLACE), str(OTHER)], "other": [str(OTHER)], "none": []} == apart.evidence["astray"]
    border = replace(detection(PLACE).super_weights[0], coordinate=OTHER, part=0.06)
    nearly = SimpleNamespace(coordinates=(PLACE, OTHER), parts={PLACE: 0.8, OTHER: 0.12}, making_gains=())
    less = replace(detection(PLACE), companions=(border,))
    assert SUPPORTED == one_pass.judge(evidence(scan=nearly, detections={"less": less})).status
    hardly = replace(detection(PLACE), companions=(replace(border, part=0.04),))
    assert REFUTED == one_pass.judge(evidence(scan=nearly, detections={"hardly": hardly})).status
    nobody = one_pass.judge(evidence(scan=scan, detections={"none": Detection((), (), ())}))
    assert 0.0 == nobody.criteria[0].statistic.value
    assert 0.0 == nobody.evidence["least_magnitude"].value == nobody.evidence["greatest_magnitude"].value


def traced(*values, channel=5):
    residual = np.ones((9, 3, 16), dtype=np.float32)
    residual[:, 0, 9] = np.linspace(1, 900, 9)
    residual[:, 0, channel] = values
    return SimpleNamespace(residual=residual)


def prompts(found, intact, pruned=None, *, blocks=8, strongest=None):
    """Evidence of as many prompts as there are intact courses, each with the same detection."""
    names = [f"prompt {number}" for number in range(len(intact))]
    architecture = SimpleNamespace(blocks=range(blocks))
    strongest = strongest or found.super_activations[0]
    return evidence(
        scan=SimpleNamespace(coordinates=(PLACE,), strongest=strongest, cancellers=()),
        detections=dict.fromkeys(names, found),
        intact_traces=dict(zip(names, intact, strict=True)),
        pruned_traces=dict(zip(names, pruned or intact, strict=True)),
        subject=SimpleNamespace(architecture=architecture),
    )


def test_the_spread_is_that_of_the_plateau():
    """Onset to last block, both in it and nothing beside them; of the largest activation alone."""
    course = traced(1, 1, 1000, 1000, 1000, 1000, 1000, 1050, 1)
    verdict = persistence.judge(prompts(detection(PLACE, more=(LESSER,)), [course] * 4))
    assert (SUPPORTED, 0.05) == (verdict.status, pytest.approx(verdict.criteria[0].statistic.value))
    keys = ("onset", "last", "blocks", "steps_down")
    assert (1, 6, 8, True) == tuple(verdict.evidence[key] for key in keys)
    uneven = traced(1, 1, 1200, 1000, 1000, 1000, 1000, 1000, 1)
    verdict = persistence.judge(prompts(detection(PLACE), [uneven] * 4))
    assert (REFUTED, 0.2) == (verdict.status, pytest.approx(verdict.criteria[0].statistic.value))


@pytest.mark.parametrize(("last", "steps"), [(5, True), (6, True), (7, False)])
def test_it_steps_down_where_it_ends_before_the_last_block(last, steps):
    """Of eight blocks the last is number 7."""
    found = detection(PLACE, last=last)
    verdict = persistence.judge(prompts(found, [traced(1, 1, *[1000] * 7)] * 2))
    assert steps == verdict.evidence["steps_down"]


def test_what_is_left_is_left_of_the_plateau():
    """The median over blocks of after over before, of the largest activation; what lies beside counts not."""
    before = traced(7, 7, 1000, 1000, 1000, 1000, 1000, 1000, 7)
    after = traced(7, 7, 100, 100, 100, 200, 200, 200, 7)
    verdict = suppression.judge(
        prompts(
            detection(PLACE, more=(LESSER,)), [before] * 4, [after, after, after, traced(7, 7, *[300] * 7)]
        )
    )
    assert SUPPORTED == verdict.status
    assert (3 * 0.15 + 0.3) / 4 == pytest.approx(verdict.criteria[0].statistic.value)
    assert (4, 0.3) == (verdict.evidence["prompts"], pytest.approx(verdict.evidence["most_left"].value))


@pytest.mark.parametrize(("begin", "end", "left"), [(2, 3, 0.5), (7, 8, 0.5)])
def test_both_ends_of_the_plateau_count(begin, end, left):
    """Two blocks long, so that the median lies between what the two have left."""
    found = detection(PLACE, onset=begin - 1, last=end - 1)
    after = [1.0] * 9
    after[begin], after[end] = 200.0, 800.0
    verdict = suppression.judge(prompts(found, [traced(*[1000] * 9)] * 2, [traced(*after)] * 2))
    assert left == pytest.approx(verdict.criteria[0].statistic.value)


def test_logits_must_come_back_to_the_last_bit(planted, monkeypatch):
    """A change that is left behind is refuted, and a prune that changed nothing as well."""
    windows = SimpleNamespace(ids=np.zeros((2, 4), dtype=np.int64))
    held = evidence(found=(PLACE,), subject=planted, pruned_set=(), windows=windows)

    def verdict_of(before, during, after):
        answers = iter([torch.tensor(before), torch.tensor(during), torch.tensor(after)])
        monkeypatch.setattr(weight_restoration, "_logits", lambda _: next(answers))
        return weight_restoration.judge(held)

    restored = verdict_of([1.0, 2.0], [1.0, 5.0], [1.0, 2.0])
    assert (SUPPORTED, 0.0) == (restored.status, restored.criteria[0].statistic.value)
    left = verdict_of([1.0, 2.0], [1.0, 5.0], [1.0, 2.5])
    assert (REFUTED, 0.5) == (left.status, left.criteria[0].statistic.value)
    unchanged = verdict_of([1.0, 2.0], [1.0, 2.0], [1.0, 2.0])
    assert REFUTED == unchanged.status
    assert "while pruned" in unchanged.reason


def writing(*loops):
    return tuple(SimpleNamespace(loops=flag, repeated_4grams=0.25, distinct_2=0.75) for flag in loops)


@pytest.mark.parametrize(
    ("intact", "pruned", "more", "status"),
    [
        ((False,) * 8, (True,) * 8, 1.0, SUPPORTED),
        ((True,) * 8, (True,) * 8, 0.0, REFUTED),
        ((True,) * 4 + (False,) * 4, (True,) * 8, 0.5, INCONCLUSIVE),
    ],
)
def test_continuations_that_collapse_anyway_do_not_count(intact, pruned, more, status):
    """What the intact model spoils by itself is subtracted."""
    nothing = np.zeros(WINDOWS)
    human = Measurement(np.full((WINDOWS, 1), 3.0), nothing, nothing, nothing[:, None])
    held = evidence(
        Look(WINDOWS, {INTACT: human}),
        found=(PLACE,),
        intact_writing=writing(*intact),
        pruned_writing=writing(*pruned),
        judged_by_intact=lambda texts: [3.0] * len(texts),
    )
    verdict = generation.judge(held)
    assert (status, more) == (verdict.status, verdict.criteria[0].statistic.value)
    assert 3.0 == verdict.evidence["human_nll"].value
    row = {name: number.value for name, number in verdict.evidence["intact"].items()}
    expected = {"loop_rate": sum(intact) / 8, "repeated_4grams": 0.25, "distinct_2": 0.75}
    assert expected | {"nll_by_intact": 3.0} == row
    gibberish = SimpleNamespace(**{**vars(held), "judged_by_intact": lambda texts: [3.5] * len(texts)})
    assert 0.0 == generation.judge(gibberish).criteria[0].statistic.value


@pytest.fixture
def rounded(monkeypatch):
    """Judge C12 where rounding costs so much, naively and with the activation held out."""

    def judge(naive, held, *, found=(1,), count=WINDOWS, noise=0.0):
        spread, seen = np.linspace(0.95, 1.05, count), []
        uneven = noise * np.where(np.arange(count) % 2, 1.0, -1.0)

        def sweep(subject, scan, text, names):
            assert 0 == len(text.calibration)  # nothing is chosen, so nothing is set aside
            if naive is None:
                raise BadInput("nothing to round here")
            own = slice(len(seen), len(seen) + len(text.measured))
            seen.extend(text.measured)
            return {NAIVE: 3.0 + naive * spread[own], HELD_OUT: 3.0 + (held * spread + uneven)[own]}

        monkeypatch.setattr(activation_quantization, "activation_sweep", sweep)
        windows = Windows(np.zeros((count, 4), dtype=np.int64), "by hand")
        scan = SimpleNamespace(super_activations=found)
        subject = SimpleNamespace(architecture=SimpleNamespace(blocks=range(2)))
        return activation_quantization.judge(
            evidence(
                scan=scan, windows=windows, subject=subject, intact=lambda windows: np.full(windows, 3.0)
            )
        )

    return judge


def test_the_share_closed_is_of_the_gap_that_rounding_opens(rounded):
    """Half a nat lost, an eighth of it with the activation held out."""
    verdict = rounded(0.5, 0.0625)
    share, left = verdict.criteria
    assert (SUPPORTED, 0.875) == (verdict.status, pytest.approx(share.statistic.value))
    assert (0.875, 0.875) == pytest.approx((share.interval.low, share.interval.high))
    # A tenth over 48 windows, and more by the root of how many fewer there are.
    assert 0.1 * np.sqrt(6) == pytest.approx(share.statistic.within)
    assert (0.0625, 0.05 * np.sqrt(6)) == pytest.approx((left.statistic.value, left.statistic.within))
    perplexities = {name: number.value for name, number in verdict.evidence["perplexities"].items()}
    expected = {"full": 3.0 + 0 * SPREAD, NAIVE: 3.0 + 0.5 * SPREAD, HELD_OUT: 3.0 + 0.0625 * SPREAD}
    assert {name: np.exp(nll.mean()) for name, nll in expected.items()} == pytest.approx(perplexities)
    assert REFUTED == rounded(0.5, 0.49).status
    assert REFUTED == rounded(0.5, -0.1).status  # better than the full model is too good to be true


@pytest.mark.parametrize(("noise", "windows"), [(0.0, 16), (0.3, 32), (2.0, 48)])
def test_rounding_is_read_on_only_while_it_is_in_doubt(rounded, noise, windows):
    """It begins at 16 windows, where two machines differ by less than twice what they do over all."""
    verdict = rounded(0.5, 0.3, count=48, noise=noise)
    assert windows == verdict.evidence["windows"].value
    assert 48 == verdict.evidence["windows"].within  # another machine may stop at another look
    share = verdict.criteria[0]
    assert 0.1 * np.sqrt(48 / windows) == pytest.approx(share.statistic.within)


@pytest.mark.parametrize(
    ("naive", "reason"),
    [
        (0.0, "loses nothing"),
        (-0.1, "loses nothing"),
        (-2.0, "loses nothing"),
        (None, "nothing to round here"),
    ],
)
def test_a_gap_that_is_none_cannot_be_closed(rounded, naive, reason):
    """Nor one on a model that cannot be rounded, nor where no activation is found."""
    verdict = rounded(naive, 0.0)
    assert NOT_APPLICABLE == verdict.status
    assert reason in verdict.reason
    assert NOT_APPLICABLE == rounded(0.5, 0.1, found=()).status


def blocks_won(*won):
    """Return block sizes, smallest first, each with what holding out wins there."""
    plain = 4.0 + SPREAD
    return [BlockSize(32 << at, 9.5, plain, plain - gain * SPREAD) for at, gain in enumerate(won)]


@pytest.mark.parametrize(
    ("won", "status"),
    [
        ((0.1, 0.0, 0.5), SUPPORTED),
        ((0.5, 0.9, 0.1), REFUTED),  # the most in the middle, the least at the largest
        ((0.5, 0.0, 0.5), REFUTED),
        ((0.0, 0.0, 0.0), REFUTED),
    ],
)
def test_what_is_won_grows_from_the_smallest_to_the_largest_block(won, status):
    """What lies between is told and decides nothing."""
    verdict = weight_quantization.verdict_on(np.full(WINDOWS, 3.0), blocks_won(*won))
    largest, grown = verdict.criteria
    assert status == verdict.status
    assert (won[2], won[2] - won[0]) == pytest.approx((largest.statistic.value, grown.statistic.value))
    assert max(0.02, 0.02 * won[2]) == pytest.approx(largest.statistic.within)
    assert ["32", "64", "128"] == list(verdict.evidence["blocks"])
    intact = verdict.evidence["intact_perplexity"]
    assert (np.exp(3.0), 0.05 * np.exp(3.0)) == pytest.approx((intact.value, intact.within))


def test_a_model_that_cannot_be_rounded_says_why():
    """And one without super weights has nothing to hold out."""

    class Evidence:
        scan = SimpleNamespace(coordinates=(PLACE,))

        @property
        def rounded_weights(self):
            raise BadInput("nothing to round here")  # before anything is measured, or at the first look

    verdict = weight_quantization.judge(Evidence())
    assert (NOT_APPLICABLE, "nothing to round here") == (verdict.status, verdict.reason)
    nobody = evidence()
    assert NOT_APPLICABLE == weight_quantization.judge(nobody).status
