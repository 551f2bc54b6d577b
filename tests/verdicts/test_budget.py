"""A check within a budget: what is planned, what fits, and what is said of the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from superweight.claims import plan as plan_module
from superweight.claims.budget import Budget, cheapest_first
from superweight.claims.catalogue import CLAIMS, SEQUENTIAL
from superweight.claims.evidence import Evidence
from superweight.claims.expectations import compare_with_expectation
from superweight.claims.paper import activation_quantization, pruning, sensitivity, weight_quantization
from superweight.claims.plan import Plan, Range, Step, plan_of
from superweight.claims.verdict import INCONCLUSIVE, Verdict
from superweight.core.duration import parse_duration


def step(*claims, least, most=None, blocks=1000):
    seconds = Range(least, most or least)
    return Step(claims, "something", 1, Range(8, 48), Range(blocks * least, blocks * seconds.most), seconds)


PLAN = Plan(
    "by hand", 4, 48, 0.001, 2**30, (step("C2", least=1), step("C3", "C4", least=6), step("C12", least=5))
)


class Clock:
    """Tells the time that a test says it is."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def claim(name):
    return next(each for each in CLAIMS if each.id == name)


@pytest.fixture
def evidence(planted):
    return Evidence(planted, "builtin", tests=SEQUENTIAL)


@pytest.mark.parametrize(
    ("text", "seconds"), [("60s", 60), ("10min", 600), ("1.5h", 5400), ("90", 90), (" 2 s ", 2)]
)
def test_a_length_of_time_is_read_as_people_write_it(text, seconds):
    """In seconds, minutes or hours; a bare number is seconds."""
    assert seconds == parse_duration(text)


@pytest.mark.parametrize("text", ["", "soon", "-3s", "0", "10 hours", "1e3", "٣s", "nan"])
def test_what_is_no_length_of_time_is_refused(text, refusal):
    """In one line, with an example."""
    assert "give 60s, 10min or 1h" in refusal(parse_duration, text)


def test_the_plan_is_what_is_measured(evidence):
    """The token-blocks of the first look are those that the blocks compute on, and nothing is measured."""
    plan = plan_of(evidence)
    assert evidence.peek("sequential") is None
    shared = plan.step_of("C3")
    assert ("C3", "C4", "C8", "C9", "C10") == shared.claims
    computed = 0

    def count(module, arguments, output):
        nonlocal computed
        sequences, tokens, _ = arguments[0].shape
        computed += sequences * tokens if tokens == plan.window_tokens else 0  # not what proves the edits

    projections = evidence.subject.architecture.projections
    hooks = [projection.module.register_forward_hook(count) for projection in projections]
    evidence.sequential.first()
    for hook in hooks:
        hook.remove()
    assert computed == pytest.approx(shared.token_blocks.least, rel=0.05)
    assert 1 + len(evidence.conditions) == shared.conditions


def test_the_plan_counts_tokens_and_the_blocks_that_compute_on_them(planted):
    """Of a model of 4 blocks, 48 windows of 48 tokens and 10 conditions, by hand.

    Nine prompts, the longest of 76 tokens. A look computes on 35 blocks a token: 4 for the intact model, 3
    each for nine conditions that begin at block 1, and 4 for one that begins at block 0. Read on is what
    verdicts rest on. Eight texts are continued by 40 tokens. Rounded passes count for 1.3; six clips are
    tried on four windows.
    """
    plan = plan_of(Evidence(planted, "builtin"))
    prompts, window = 9 * 76 * 4, 48 * 4
    looks = (8 * 48 * 35, 8 * 48 * 35 + 40 * 48 * (4 + 7 * 3 + 4))
    written = 2 * 8 * (76 + 40) * 4 * 2
    expected = {
        ("C2", "C6"): (prompts, prompts),
        ("C5",): (prompts, prompts),
        ("C7",): (3 * window, 3 * window),
        ("C3", "C4", "C8", "C9", "C10"): looks,
        ("C11",): (written, written),
        ("C12",): (1.3 * 2 * 16 * window, 1.3 * 2 * 48 * window),
        ("C13",): (1.3 * (48 + 4 * 8) * window, 1.3 * (48 + 4 * 44) * window),
    }
    found = {step.claims: (step.token_blocks.least, step.token_blocks.most) for step in plan.steps}
    assert expected.keys() == found.keys()
    for claims, ends in expected.items():
        assert ends == pytest.approx(found[claims]), claims
    windows = {step.claims[0]: (step.windows.least, step.windows.most) for step in plan.steps}
    # Prompts and continuations are no windows.
    one_pass, read_on = {"C2": (0, 0), "C5": (0, 0), "C7": (1, 1), "C11": (0, 0)}, {"C3": (8, 48)}
    assert {**one_pass, **read_on, "C12": (16, 48), "C13": (8, 44)} == windows
    conditions = {step.claims[0]: step.conditions for step in plan.steps}
    assert {"C2": 1, "C5": 1, "C7": 2, "C3": 11, "C11": 2, "C12": 2, "C13": 4} == conditions
    # Two windows of 48 tokens in 11 rows, float32: six streams of 64, three products of 160; four pieces of
    # logits of 64 MiB.
    assert 11 * 2 * 48 * (6 * 64 + 3 * 160) * 4 + 4 * 2**26 == plan.memory


def test_a_large_vocabulary_takes_the_memory_of_its_logits(planted, monkeypatch):
    """Where pieces are smaller than one window's logits, a window is the least: 48 tokens of float32."""
    pieces = plan_of(Evidence(planted, "builtin")).memory
    monkeypatch.setattr(plan_module, "LOGITS_BYTES", 1)
    vocabulary = planted.model.get_output_embeddings().weight.shape[0]
    assert pieces - 4 * 2**26 + 4 * 4 * vocabulary * 48 == plan_of(Evidence(planted, "builtin")).memory


def test_a_timed_pass_is_divided_by_its_tokens_and_blocks(evidence, monkeypatch):
    """One second for two windows of 48 tokens in 4 blocks."""
    ticks = iter([10.0, 11.0])
    monkeypatch.setattr(plan_module, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    monkeypatch.setattr(plan_module, "batch_of", lambda subject: 2)
    assert 1 / (2 * 48 * 4) == plan_module.seconds_per_token_block(evidence)


def test_a_plan_adds_up_and_is_json(evidence):
    """Least and most are sums over the steps; every claim that measures has a step."""
    plan = plan_of(evidence)
    document = json.loads(json.dumps(plan.as_dict()))
    assert document["seconds"]["most"] == pytest.approx(sum(each.seconds.most for each in plan.steps))
    assert document["token_blocks"]["least"] == sum(each.token_blocks.least for each in plan.steps)
    planned = {name for each in plan.steps for name in each.claims}
    assert {f"C{number}" for number in range(2, 14)} == planned
    for each in plan.steps:
        assert 0 < each.token_blocks.least <= each.token_blocks.most
        assert each.seconds.least == pytest.approx(each.token_blocks.least * plan.seconds_per_token_block)
    assert plan.memory > 0


def test_a_model_without_super_weights_plans_next_to_nothing(plain):
    """There is nothing to prune, to restore or to hold out."""
    assert () == plan_of(Evidence(plain, "builtin")).steps


def test_cheap_claims_come_first_and_shared_ones_share():
    """What the scan has answered costs nothing; six seconds for two claims come before five for one."""
    order = [each.id for each in cheapest_first(map(claim, ["C12", "C3", "C4", "C2", "C1"]), PLAN)]
    assert ["C1", "C2", "C3", "C4", "C12"] == order


def test_what_does_not_fit_says_what_it_needs(clock):
    """It is inconclusive, for want of time; what others measured already costs no more."""
    budget = Budget(8, PLAN, clock)
    assert budget.refusal(claim("C3")) is None
    clock.now = 7
    assert budget.refusal(claim("C4")) is None  # measured with C3
    assert budget.refusal(claim("C1")) is None
    refused = budget.refusal(claim("C12"))
    assert (INCONCLUSIVE, "5 s") == (refused.status, refused.unmet)
    assert "it needs 5 s, and 1 s of the budget are left" in refused.reason
    assert (True, False) == (budget.affords(1000), budget.affords(1001))


def test_reading_ends_with_the_budget(evidence, monkeypatch):
    """A claim in doubt is left at the look that it had, and says that more text is needed."""
    evidence.budget = Budget(1000, PLAN)
    monkeypatch.setattr(evidence.budget, "affords", lambda token_blocks: False)
    cut = {
        name: module.judge(evidence)
        for name, module in (
            ("C10", sensitivity),
            ("C12", activation_quantization),
            ("C13", weight_quantization),
        )
    }
    needed = {"C10": "8 of 48", "C12": "16 of 48", "C13": "8 of 44"}
    assert {name: f"more than {text} windows" for name, text in needed.items()} == {
        name: verdict.unmet for name, verdict in cut.items()
    }
    assert {INCONCLUSIVE} == {verdict.status for verdict in cut.values()}
    assert all(f"the budget ended: it needs {item.unmet}" in item.reason for item in cut.values())
    assert "" == pruning.judge(evidence).unmet  # decided at the first look


def test_what_was_not_judged_is_held_against_nothing(planted, tmp_path):
    """Not against a baseline that says otherwise, nor the paper: it is no damage, and no match."""
    verdict = Verdict(claim("C3"), INCONCLUSIVE, "because", unmet="5 s")
    stored = {"model": "tiny-planted", "claim": "C3", "status": "supported"}
    for expect in ("auto", "paper"):
        for base in (None, Verdict(claim("C3"), "supported", "because")):
            outcome = compare_with_expectation(
                verdict, {}, stored, base=base, expect=expect, entry=planted.entry, path=tmp_path / "C3.json"
            )
            assert (True, False, None) == (outcome.as_expected, outcome.was_judged, outcome.expected)
    judged = replace(verdict, status="supported", unmet="")
    base = replace(verdict, status="supported")
    outcome = compare_with_expectation(
        judged, {}, None, base=base, expect="auto", entry=planted.entry, path=tmp_path / "C3.json"
    )
    assert not outcome.was_judged
    assert "the base" in outcome.verdict.unmet
