"""Each property can fail: what it guards is broken, and the smallest counterexample is told."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from superweight.claims.evidence import Evidence
from superweight.claims.properties import (
    any_order,
    any_prompt,
    batch_invariance,
    dtype_agreement,
    monotone,
)
from superweight.claims.properties.catalogue import PROPERTIES
from superweight.claims.properties.search import (
    DEFAULT_EXAMPLES,
    SLOW_EXAMPLES,
    Budget,
    Finding,
    Search,
    search,
    verdict_of,
)
from superweight.claims.verdict import NOT_APPLICABLE, REFUTED, SUPPORTED, Claim
from superweight.core.coordinates import Coordinate
from superweight.detection.detect import detect
from superweight.detection.run_trace import trace
from superweight.model import edits as edits_module
from superweight.model.edits import Prune, edited
from superweight.report.document import verdict_row
from tests.helpers.live_models import set_scalars

PLACE = Coordinate(1, 41, 23)
FEW = Budget(12)


@pytest.fixture
def evidence(planted):
    return Evidence(planted, "builtin")


def counterexample(verdict):
    (found,) = [seen["counterexample"] for seen in verdict.examples.values() if "counterexample" in seen]
    return found


def as_written(verdict):
    """The part of P1 that is about prompts as the tokenizer writes them."""
    return verdict.examples[any_prompt.AS_WRITTEN]


# The engine.


def below(limit):
    def judge_all(numbers):
        return [Finding("ok") if n < limit else Finding("large", {"number": n}) for n in numbers]

    return judge_all


def test_the_smallest_counterexample_is_told():
    """Of many numbers of 100 and more, 100."""
    found = search("numbers", st.integers(0, 10_000), below(100), Budget(30))
    assert {"number": 100} == found.counterexample
    assert 30 == found.examples == sum(found.outcomes.values())
    assert found.outcomes["large"] > 0


def test_examples_are_judged_together_first():
    """One call judges all that was drawn; only shrinking asks one by one."""
    sizes = []

    def judge_all(numbers):
        sizes.append(len(numbers))
        return [Finding("ok") for _ in numbers]

    search("together", st.integers(), judge_all, Budget(20))
    assert 1 == len(sizes)
    assert 10 < sizes[0] <= 20


def test_a_derandomised_search_is_the_same_each_time():
    """Under CI nobody is surprised by a draw that nobody can repeat; elsewhere each run draws anew."""

    def draws(budget):
        seen = []
        search("repeated", st.integers(), lambda all_: seen.extend(all_) or below(10**9)(all_), budget)
        return seen

    assert draws(Budget(15)) == draws(Budget(15))
    assert draws(Budget(15, derandomize=False)) != draws(Budget(15, derandomize=False))


def test_a_counterexample_is_kept_and_comes_first(tmp_path):
    """The next run, with one example only, finds what this one took many for."""
    numbers = st.integers(0, 10**6)
    budget = Budget(200, database=tmp_path)
    assert {"number": 900_000} == search("kept", numbers, below(900_000), budget).counterexample
    again = search("kept", numbers, below(900_000), Budget(1, database=tmp_path))
    assert {"number": 900_000} == again.counterexample
    assert (
        search("another name", numbers, below(900_000), Budget(1, database=tmp_path)).counterexample is None
    )


def test_one_counterexample_refutes_and_none_supports():
    claim = Claim("P9", "A property.", "nowhere")
    searched = {"here": Search(5, {"ok": 5}), "there": Search(5, {"ok": 4, "bad": 1}, {"text": "x"})}
    verdict = verdict_of(claim, searched)
    assert (REFUTED, "smallest counterexample there: text 'x'") == (verdict.status, verdict.reason)
    assert [0.0, 1.0] == [criterion.statistic.value for criterion in verdict.criteria]
    sound = verdict_of(claim, {"here": Search(5, {"ok": 5})})
    assert (SUPPORTED, "no counterexample in 5 examples") == (sound.status, sound.reason)


def test_how_much_is_searched_is_as_the_page_says():
    """Examples in a short run and in a long one, and the steps of P2."""
    page = (Path(__file__).parents[2] / "docs" / "properties.md").read_text(encoding="utf-8")
    assert (f"{DEFAULT_EXAMPLES} examples a search; {SLOW_EXAMPLES} in a run that selects slow tests") in page
    assert {6: "up to six steps: "}[any_order.STEPS] in page
    assert DEFAULT_EXAMPLES == Budget().examples


# The properties.


def test_a_model_without_super_weights_has_none_of_the_properties(plain):
    nothing = Evidence(plain, "builtin")
    assert {NOT_APPLICABLE} == {judge(nothing, FEW).status for judge in PROPERTIES.values()}


def test_all_but_the_missing_bos_is_supported(evidence):
    """The tiny models were trained with a BOS in front of every text, and keep their activation there."""
    for claim, judge in PROPERTIES.items():
        verdict = judge(evidence, FEW)
        if claim.id == "P1":
            assert {"the same set": 12} == as_written(verdict)["outcomes"]
            assert "counterexample" not in as_written(verdict)
        else:
            assert SUPPORTED == verdict.status, verdict


def only_for(planted, letter):
    """Return a scalar that writes a new activation for one letter, and its place."""
    usual = trace(planted, "The bridge was closed by the town.").writes[1][0].inputs
    rare = trace(planted, f"The {letter}").writes[1][0].inputs[-1]
    contrast = abs(rare) / abs(usual).max(0)
    contrast[PLACE.col] = 0
    col = int(contrast.argmax())
    assert contrast[col] > 1.5
    return Coordinate(1, 7, col), 4000.0 / float(rare[col])


def test_a_scalar_that_only_some_prompts_wake_is_found_and_shrunk(planted):
    """P1: a second scalar, silent at the default prompt, and a text of a few letters that wakes it."""
    place, value = only_for(planted, "я")
    evidence = Evidence(planted, "builtin")
    _ = evidence.scan
    with set_scalars(planted, {place: value}):
        woken = as_written(any_prompt.judge(evidence, Budget(60)))["counterexample"]
    assert str(place) in woken["found"]
    assert len(woken["text"]) <= 10
    assert woken["ids"][: len(planted.encode(woken["text"]))] == planted.encode(woken["text"])


def test_a_prompt_too_short_for_an_activation_is_no_counterexample(evidence, monkeypatch):
    """P1: of fewer than four tokens none is expected, of four it is."""
    nothing = replace(detect(trace(evidence.subject, "The")), super_weights=(), super_activations=())
    monkeypatch.setattr(any_prompt, "detect", lambda trace: nothing)
    seen = as_written(any_prompt.judge(evidence, Budget(60)))
    assert {any_prompt.TOO_SHORT, any_prompt.OTHERS} == seen["outcomes"].keys()
    assert len(seen["counterexample"]["ids"]) >= 4
    assert [] == seen["counterexample"]["found"]


def test_a_restoration_that_loses_one_bit_is_found(planted, evidence, monkeypatch):
    """P2: the sign of one other scalar is lost when an edit of the weight ends; what was edited is right."""
    written = edits_module._written
    weight = planted.architecture.projection(PLACE).weight()
    lost = weight[5, 6].clone()

    @contextmanager
    def careless(*arguments):
        with written(*arguments):
            yield
        weight[5, 6] = -weight[5, 6]

    monkeypatch.setattr(edits_module, "_written", careless)
    try:
        verdict = any_order.judge(evidence, FEW)
    finally:
        weight[5, 6] = lost
    assert REFUTED == verdict.status
    assert 1 == len(counterexample(verdict)["steps"])


def test_a_scale_of_one_that_changes_something_is_found(planted, evidence, monkeypatch):
    """P2: while it is in force, and only then."""

    @contextmanager
    def rounded(subject, edits, **options):
        weight = subject.architecture.projection(edits[0].coordinate).weight()
        stored = weight[PLACE.row, PLACE.col].clone()
        weight[PLACE.row, PLACE.col] *= edits[0].factor * 1.0001
        try:
            yield
        finally:
            weight[PLACE.row, PLACE.col] = stored

    monkeypatch.setattr(any_order, "edited", rounded)
    found = counterexample(any_order.judge(evidence, Budget(200)))
    assert ("scaling by 1 changed something", [f"scale {PLACE} by 1"]) == (found["seen"], found["steps"])


def test_two_ways_to_edit_that_differ_are_found(evidence, monkeypatch):
    """P2: in the output the scalar counts a tenth more than in the weight."""

    @contextmanager
    def more(subject, edits, by_hook=False):
        scaled = [replace(edit, factor=edit.factor * 1.1) if by_hook else edit for edit in edits]
        with edited(subject, scaled, by_hook=by_hook):
            yield

    monkeypatch.setattr(any_order, "edited", more)
    found = counterexample(any_order.judge(evidence, Budget(40)))
    assert "editing the weight and editing the output differ by more than rounding" == found["seen"]
    assert 1 == len(found["steps"])


def test_an_edit_that_an_exception_leaves_in_force_is_found(planted, evidence, monkeypatch):
    """P2: a scalar that stays scaled where the block is left by an exception."""

    @contextmanager
    def leaky(subject, edits, **options):
        weight = subject.architecture.projection(edits[0].coordinate).weight()
        stored = weight[PLACE.row, PLACE.col].clone()
        weight[PLACE.row, PLACE.col] *= edits[0].factor
        yield
        weight[PLACE.row, PLACE.col] = stored

    weight = planted.architecture.projection(PLACE).weight()
    stored = weight[PLACE.row, PLACE.col].clone()
    monkeypatch.setattr(any_order, "edited", leaky)
    try:
        verdict = any_order.judge(evidence, Budget(40))
    finally:
        weight[PLACE.row, PLACE.col] = stored
    assert "an exception left something changed" == counterexample(verdict)["seen"]


def test_a_set_that_leaves_more_when_more_is_pruned_is_found(evidence, monkeypatch):
    """P3: pruning the one scalar leaves more than pruning none."""
    monkeypatch.setattr(
        monotone, "shares_left", lambda *given: [1.5 if chosen else 1.0 for chosen in given[-1]]
    )
    found = counterexample(monotone.judge(evidence, FEW))
    assert ([], [str(PLACE)]) == (found["pruned"], found["pruned too"])
    assert (1.0, 1.5) == (found["leaves"], found["leaves then"])


def test_what_leaves_as_much_is_told_from_what_leaves_less(evidence, monkeypatch):
    """P3: within five hundredths either way is as much."""
    for left, outcome in ((0.94, "less is left"), (0.96, "as much is left"), (1.04, "as much is left")):
        shares = {True: left, False: 1.0}
        monkeypatch.setattr(
            monotone,
            "shares_left",
            lambda *given, shares=shares: [shares[bool(chosen)] for chosen in given[-1]],
        )
        outcomes = monotone.judge(evidence, FEW).examples[monotone.SEARCHED]["outcomes"]
        assert {outcome} == outcomes.keys() - {"as much is left"} or {outcome} == outcomes.keys()


def test_the_share_that_is_left_is_that_of_a_model_pruned_in_a_pass_of_its_own(planted, evidence):
    """All sets in one pass give what each gives alone."""
    strongest = evidence.scan.strongest
    other = Coordinate(1, 41, 24)
    sets = [frozenset(), frozenset({PLACE}), frozenset({other}), frozenset({PLACE, other})]

    def peak(places):
        with edited(planted, [Prune(place) for place in sorted(places)]):
            stream = trace(planted, monotone.default_prompt()).residual
        return np.abs(
            stream[strongest.onset + 1 : strongest.last + 2, strongest.token, strongest.channel]
        ).max()

    expected = [peak(places) / peak(()) for places in sets]
    assert expected == pytest.approx(monotone.shares_left(planted, strongest, sets), rel=1e-5)


def test_a_prompt_is_drawn_with_up_to_three_neighbours(planted):
    """P4: at any place of the batch, padded on either side, with and without a cache."""
    drawn = []

    def judge_all(examples):
        drawn.extend(examples)
        return [Finding("ok") for _ in examples]

    search("batches", batch_invariance.batches(planted), judge_all, Budget(300))
    assert {(others, place) for others in range(4) for place in range(others + 1)} == {
        (len(batch.others), batch.place) for batch in drawn
    }
    assert {(left, cache) for left in (True, False) for cache in (True, False)} == {
        (batch.left, batch.use_cache) for batch in drawn
    }
    assert 24 == max(len(batch.prompt.ids) for batch in drawn)


def test_a_row_that_padding_leaks_into_is_found(planted, evidence, monkeypatch):
    """P4: a model that ignores the attention mask reads the padding on the left as its first tokens."""
    inner = planted.model.base_model
    forward = inner.forward
    monkeypatch.setattr(
        inner,
        "forward",
        lambda input_ids, attention_mask=None, position_ids=None, **named: forward(input_ids, **named),
    )
    found = counterexample(batch_invariance.judge(evidence, Budget(40)))
    assert "left" == found["padded"]
    assert 1 == len(found["others"])


def test_an_activation_that_moves_with_the_batch_is_found(planted, evidence):
    """P4: in company the activation sits on the channel beside."""

    def moved(module, given, output):
        return output.roll(1, -1) if len(output) > 1 else output

    handle = planted.architecture.projection(PLACE).module.register_forward_hook(moved)
    try:
        found = counterexample(batch_invariance.judge(evidence, FEW))
    finally:
        handle.remove()
    assert 1 == len(found["others"])
    assert found["alone"] != found["in the batch"]


def test_a_dtype_in_which_the_set_is_lost_is_found(evidence, monkeypatch):
    """P5: a copy in bfloat16 whose super weight is rounded away."""
    cast = dtype_agreement.cast

    @contextmanager
    def lossy(subject, dtype):
        with cast(subject, dtype) as other:
            if dtype == torch.bfloat16:
                other.architecture.projection(PLACE).weight()[PLACE.row, PLACE.col] = 0
            yield other

    monkeypatch.setattr(dtype_agreement, "cast", lossy)
    verdict = dtype_agreement.judge(evidence, FEW)
    assert [1.0, 0.0] == [criterion.statistic.value for criterion in verdict.criteria]
    assert [] == counterexample(verdict)["found"]


def test_a_model_is_cast_only_where_two_copies_fit(planted, evidence, monkeypatch):
    """P5: a copy in the model's own dtype is cast, and both are there for a moment."""
    size = sum(tensor.nbytes for tensor in planted.model.parameters())
    monkeypatch.setattr(dtype_agreement, "_free_memory", lambda: 2 * size)
    verdict = dtype_agreement.judge(evidence, FEW)
    assert (NOT_APPLICABLE, True) == (verdict.status, "no room for a copy of 0.0 GiB" in verdict.reason)
    monkeypatch.setattr(dtype_agreement, "_free_memory", lambda: 2 * size + 1)
    assert SUPPORTED == dtype_agreement.judge(evidence, FEW).status


def test_prompts_are_cut_to_what_a_cast_model_reads_in_one_batch(evidence, monkeypatch):
    """P5: the longest of many has 24 tokens."""
    seen = []
    monkeypatch.setattr(
        dtype_agreement,
        "search",
        lambda name, strategy, judge_all, budget: search(
            name,
            strategy,
            lambda drawn: [seen.append(len(one.ids)) or Finding("ok") for one in drawn],
            budget,
        ),
    )
    dtype_agreement.judge(evidence, Budget(60))
    assert 24 == max(seen)


def test_float16_is_left_out_where_the_activation_does_not_fit(planted, evidence, monkeypatch):
    """What float16 cannot hold says nothing about the set."""
    found = evidence.scan
    monkeypatch.setattr(type(found), "largest", 70_000.0, raising=False)
    monkeypatch.setitem(vars(found), "largest", 70_000.0)
    verdict = dtype_agreement.judge(evidence, FEW)
    assert ["in bfloat16"] == list(verdict.examples)
    assert ["float16"] == verdict.evidence["too_small"]


def test_a_report_has_the_examples_and_a_baseline_has_not(evidence):
    """They differ from run to run."""
    from superweight.claims.expectations import compare_with_paper
    from superweight.claims.record import record

    verdict = monotone.judge(evidence, FEW)
    assert "examples" not in record("m", verdict, {})
    shown = verdict_row(compare_with_paper(verdict))["examples"]
    assert {"among nested subsets"} == shown.keys()
    assert shown["among nested subsets"]["examples"] > 0
