"""What a verdict is held against, and what a person reads when it does not match."""

from dataclasses import FrozenInstanceError, replace

import pytest

from superweight.checkpoints.registry import ModelEntry, PublishedScalar
from superweight.claims import expectations
from superweight.claims.catalogue import CLAIMS
from superweight.claims.expectations import (
    Outcome,
    compare_with_base,
    compare_with_baseline,
    compare_with_expectation,
    compare_with_paper,
    compare_with_registry,
    explain,
    in_ci,
)
from superweight.claims.record import record
from superweight.claims.verdict import (
    AT_LEAST,
    INCONCLUSIVE,
    REFUTED,
    SUPPORTED,
    Claim,
    Criterion,
    Measured,
    Verdict,
)
from superweight.core.coordinates import Coordinate
from superweight.core.statistics import Interval

STATUSES = ("supported", "refuted", "inconclusive", "not applicable")


def verdict(status, claim="C3", **evidence):
    return Verdict(Claim(claim, "Pruning it destroys the model", "Table 1"), status, "why", evidence=evidence)


@pytest.fixture(autouse=True)
def no_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("true", True),
        ("1", True),
        ("woodpecker", True),
        ("", False),
        ("0", False),
        ("false", False),
        ("False", False),
    ],
)
def test_ci_is_told_by_its_variable(monkeypatch, value, expected):
    """CI counts unless it is empty, 0 or false."""
    monkeypatch.setenv("CI", value)
    assert expected is in_ci()


def test_without_the_variable_nobody_gates():
    """An unset CI is no CI."""
    assert not in_ci()


@pytest.mark.parametrize("base", STATUSES)
@pytest.mark.parametrize("status", STATUSES)
def test_a_release_is_held_to_its_base(status, base):
    """As expected is exactly the base model's status, good or bad."""
    outcome = compare_with_base(verdict(status), verdict(base))
    assert (status == base) is outcome.as_expected
    assert (base, "base") == (outcome.expected, outcome.source)


def test_a_gap_to_the_base_names_both_statuses():
    """The gap says who has what."""
    outcome = compare_with_base(verdict("refuted"), verdict("supported"))
    assert ("status: the base model has supported, this model refuted",) == outcome.gaps


@pytest.mark.parametrize(
    ("claim", "status", "as_expected"),
    [
        ("C3", "supported", True),
        ("C3", "refuted", False),
        ("C3", "inconclusive", False),
        ("C3", "not applicable", True),
        ("C1", "supported", True),
        ("C1", "refuted", False),
        ("C1", "inconclusive", False),
        ("C1", "not applicable", False),
    ],
)
def test_the_paper_expects_its_claims_to_hold(claim, status, as_expected):
    """A claim that says nothing about a model is no gap, except C1, which must find something."""
    outcome = compare_with_paper(verdict(status, claim))
    assert as_expected is outcome.as_expected
    assert ("supported", "paper") == (outcome.expected, outcome.source)


def test_a_baseline_that_matches_is_as_expected():
    """The same record again is no gap, whatever it was measured with."""
    now = verdict("refuted", words=["a"])
    outcome = compare_with_baseline(now, record("m", now, {"torch": "3"}), record("m", now, {"torch": "2"}))
    assert outcome.as_expected
    assert ("refuted", "baseline") == (outcome.expected, outcome.source)


def test_a_baseline_holds_every_leaf():
    """An equal status with other evidence is not as expected."""
    stored = record("m", verdict("supported", words=["a"]), {})
    now = verdict("supported", words=["b"])
    outcome = compare_with_baseline(now, record("m", now, {}), stored)
    assert ('evidence.words[0]: was "a", is "b"',) == outcome.gaps
    assert "supported" == outcome.expected


def test_a_status_does_not_hang_on_the_comparison_of_leaves_alone(monkeypatch):
    """Were nothing found to differ, supported for refuted would be a gap; what was not decided is none."""
    monkeypatch.setattr(expectations, "differences", lambda stored, new: [])
    for now, as_expected in ((REFUTED, False), (SUPPORTED, True), (INCONCLUSIVE, True)):
        outcome = compare_with_baseline(verdict(now), {}, {"status": SUPPORTED})
        assert as_expected is outcome.as_expected


def test_a_baseline_of_another_status_is_a_gap():
    """The status is a leaf like any other."""
    now = verdict("refuted")
    outcome = compare_with_baseline(now, record("m", now, {}), record("m", verdict("supported"), {}))
    assert ('status: was "supported", is "refuted"',) == outcome.gaps
    assert "supported" == outcome.expected


def test_a_baseline_that_is_unreadable_is_a_gap():
    """A damaged file is never taken for a model that is met for the first time."""
    now = verdict("supported")
    outcome = compare_with_baseline(now, record("m", now, {}), {})
    assert ("the baseline file is not readable as one",) == outcome.gaps
    assert (None, "baseline") == (outcome.expected, outcome.source)


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("expected", STATUSES)
def test_the_registry_expects_what_was_reported(status, expected):
    """As expected is exactly the reported status."""
    outcome = compare_with_registry(verdict(status), ModelEntry("m", "m", expect={"C3": expected}))
    assert (status == expected) is outcome.as_expected
    assert (expected, "registry") == (outcome.expected, outcome.source)


UNDECIDED = ModelEntry("m", "m", expect={"C3": "inconclusive"}, undecided={"C3": (0.1, 0.3)})


def measured_as(status, value, low, high, name="share"):
    """A verdict of one criterion, by its numbers: supported from 0.2 on."""
    criterion = Criterion(name, Measured(value, 0.01), Interval(low, high), 0.2, AT_LEAST)
    assert status == criterion.status
    return replace(verdict(status), criteria=(criterion,))


@pytest.mark.parametrize(
    ("given", "as_expected"),
    [
        (measured_as("supported", 0.25, 0.2, 0.3), True),
        (measured_as("supported", 0.3, 0.2, 0.4), True),
        (measured_as("refuted", 0.1, 0.0, 0.15), True),
        (measured_as("inconclusive", 0.2, 0.1, 0.3), True),
        (measured_as("supported", 0.31, 0.2, 0.4), False),
        (measured_as("refuted", 0.09, 0.0, 0.15), False),
        (verdict("not applicable"), False),
        (verdict("supported"), False),
    ],
    ids=str,
)
def test_a_claim_that_processors_decide_differently_is_held_to_its_number(given, as_expected):
    """Either side of the threshold is as expected within the registry's range, and nothing beyond it."""
    outcome = compare_with_registry(given, UNDECIDED)
    assert as_expected is outcome.as_expected
    assert ("inconclusive", "registry") == (outcome.expected, outcome.source)


def test_a_number_outside_the_range_is_named_with_the_range():
    """Not the status, which says less."""
    gaps = compare_with_registry(measured_as("refuted", 0.05, 0.0, 0.1), UNDECIDED).gaps
    assert ("share: the registry has 0.1 to 0.3, this model 0.05",) == gaps


@pytest.mark.parametrize(
    ("given", "as_expected"),
    [
        (measured_as("supported", 0.25, 0.2, 0.3), True),
        (measured_as("supported", 0.4, 0.26, 0.5), False),
        (measured_as("supported", 0.4, 0.25, 0.5), True),
        (measured_as("refuted", 0.1, 0.05, 0.15), True),
        (measured_as("refuted", 0.1, 0.05, 0.149), False),
        (measured_as("supported", 0.25, 0.2, 0.3, "another"), False),
        (measured_as("inconclusive", 0.2, 0.1, 0.3), True),
    ],
    ids=str,
)
def test_what_the_base_left_open_is_held_to_its_interval(given, as_expected):
    """A base from 0.15 to 0.25 was not decided: a release that is decided must meet that interval."""
    base = measured_as("inconclusive", 0.2, 0.15, 0.25)
    outcome = compare_with_base(given, base)
    assert as_expected is outcome.as_expected
    assert ("inconclusive", "base") == (outcome.expected, outcome.source)


def test_an_interval_beside_the_bases_is_named():
    """Both spans stand in the gap."""
    base = measured_as("inconclusive", 0.2, 0.15, 0.25)
    gaps = compare_with_base(measured_as("refuted", 0.1, 0.0, 0.12), base).gaps
    assert ("share: the base model has 0.15 to 0.25, this model 0 to 0.12",) == gaps


@pytest.mark.parametrize(
    ("given", "as_expected", "was_judged"),
    [
        (measured_as("supported", 0.9, 0.8, 1.0), True, True),
        (measured_as("refuted", 0.1, 0.0, 0.15), False, True),
        (measured_as("inconclusive", 0.25, 0.18, 0.3), True, False),
        (measured_as("inconclusive", 0.22, 0.18, 0.26), True, False),
        (measured_as("inconclusive", 0.21, 0.18, 0.25), True, False),
        (measured_as("inconclusive", 0.2, 0.18, 0.249), False, True),
        (measured_as("inconclusive", 0.22, 0.18, 0.26, "another"), False, True),
        (verdict("inconclusive"), False, True),
        (verdict("not applicable"), False, True),
    ],
    ids=str,
)
def test_a_release_that_is_open_where_its_base_is_decided_cannot_be_judged(given, as_expected, was_judged):
    """A base from 0.25 to 0.4: what meets it may be the same, what lies beside it has changed."""
    outcome = compare_with_base(given, measured_as("supported", 0.3, 0.25, 0.4))
    assert (as_expected, was_judged) == (outcome.as_expected, outcome.was_judged)
    assert ("supported", "base") == (outcome.expected, outcome.source)
    assert was_judged is ("more text: the base model has supported" != outcome.verdict.unmet)


def test_a_published_place_is_expected_without_being_told():
    """The registry's coordinates alone expect C1, and nothing of the other claims."""
    entry = ModelEntry("m", "m", super_weights=(PublishedScalar(Coordinate(1, 2, 3)),))
    assert not compare_with_registry(verdict("not applicable", "C1"), entry).as_expected
    assert compare_with_registry(verdict("refuted", "C3"), entry).source is None


@pytest.mark.parametrize("status", STATUSES)
def test_a_first_meeting_is_a_finding_for_a_person(status):
    """Where the registry is silent and no gate is asked, anything is as expected."""
    assert Outcome(verdict(status), None, None) == compare_with_registry(
        verdict(status), ModelEntry("m", "m")
    )


@pytest.mark.parametrize("status", STATUSES)
def test_a_first_meeting_is_a_failure_for_a_gate(monkeypatch, status):
    """With CI set, a run that compared nothing has not passed."""
    monkeypatch.setenv("CI", "true")
    outcome = compare_with_registry(verdict(status), ModelEntry("m", "m"))
    assert ("CI is set, and there is nothing to compare with",) == outcome.gaps
    assert outcome.source is None


def test_ci_changes_nothing_where_something_is_expected(monkeypatch):
    """A gate does not fail what the registry expects."""
    monkeypatch.setenv("CI", "true")
    assert compare_with_registry(
        verdict("refuted"), ModelEntry("m", "m", expect={"C3": "refuted"})
    ).as_expected


def test_an_explanation_says_what_was_expected_by_whom_and_found():
    """A person reads the claim, both statuses, every change and every difference."""
    found = verdict("refuted", differences=["[1, 2, 3] is not there"])
    lines = explain("org/name", Outcome(found, "supported", "registry", ("gap one", "gap two"))).splitlines()
    assert "C3 on org/name: Pruning it destroys the model (Table 1)" == lines[0]
    assert [
        "expected  supported (registry)",
        "measured  refuted: why",
        "changed   gap one",
        "changed   gap two",
        "found     [1, 2, 3] is not there",
    ] == [line.strip() for line in lines[1:-1]]


@pytest.mark.parametrize(
    ("source", "step"),
    [
        ("base", "superweight scan"),
        ("baseline", "--snapshot-update"),
        ("registry", "fixtures/models.toml"),
        ("paper", "--sw-expect paper"),
        (None, "--snapshot-update"),
    ],
)
def test_an_explanation_ends_with_what_to_do_next(source, step):
    """Each kind of expectation has its own next step."""
    last = explain("m", Outcome(verdict("refuted"), None, source, ("gap",))).splitlines()[-1]
    assert last.startswith("  next      ")
    assert step in last


def test_nothing_on_record_is_said_in_words():
    """An expectation that does not exist is not printed as None."""
    assert "expected  nothing on record (no source)" in explain(
        "m", Outcome(verdict("refuted"), None, None, ("gap",))
    )


@pytest.fixture
def against(tmp_path):
    """Hold a verdict of C3 against whatever is at hand; the registry expects "refuted"."""

    def compare(given, *, stored=None, base=None, expect="auto", baselines=()):
        for name in baselines:
            (tmp_path / f"{name}.json").write_text("{}")
        entry = ModelEntry(name="model", source="model", expect={"C3": "refuted"})
        return compare_with_expectation(
            given,
            record("m", given, {}),
            stored,
            base=base,
            expect=expect,
            entry=entry,
            path=tmp_path / "C3.json",
        )

    return compare


def of_catalogue(status):
    return replace(verdict(status), claim=next(claim for claim in CLAIMS if claim.id == "C3"))


def test_the_paper_comes_first_where_it_was_asked_for(against):
    """Whatever else there is, base and baseline included."""
    given = verdict("supported")
    stored = record("m", verdict("refuted"), {})
    assert "paper" == against(given, base=verdict("refuted"), stored=stored, expect="paper").source
    for other in ("auto", "a", "z"):
        assert "base" == against(given, base=verdict("refuted"), stored=stored, expect=other).source


def test_the_base_comes_before_the_baseline_and_that_before_the_registry(against):
    """An unreadable baseline is one as well: it is there."""
    given = verdict("supported")
    assert "base" == against(given, base=verdict("supported"), stored=record("m", given, {})).source
    assert "baseline" == against(given, stored=record("m", given, {})).source
    assert ("baseline", False) == (against(given, stored={}).source, against(given, stored={}).as_expected)
    assert "registry" == against(given).source


def test_a_baseline_that_only_this_claim_lacks_is_a_gap(against):
    """Where others have theirs, one that is gone is no first meeting; of a claim of one's own it is."""
    outcome = against(of_catalogue("refuted"), baselines=["C1"])
    assert (None, False) == (outcome.source, outcome.as_expected)
    assert "there is no baseline C3.json in " in outcome.gaps[0]
    assert "registry" == against(verdict("refuted"), baselines=["C1"]).source


def test_a_claim_without_any_baseline_beside_it_meets_the_registry(against):
    """Its own file, were it there, is no other."""
    assert "registry" == against(of_catalogue("refuted"), baselines=["C3"]).source


@pytest.mark.parametrize("base", STATUSES)
@pytest.mark.parametrize(
    ("status", "as_expected"),
    [("supported", True), ("refuted", False), ("inconclusive", False), ("not applicable", True)],
)
def test_a_claim_about_the_two_is_held_to_what_it_says(status, as_expected, base):
    """The base has no base of its own: its verdict on such a claim is nothing to be held to."""
    given = verdict(status)
    given = replace(given, claim=replace(given.claim, relation=True))
    outcome = compare_with_base(given, verdict(base))
    assert (as_expected, "supported", "base") == (outcome.as_expected, outcome.expected, outcome.source)


def test_an_outcome_stays_as_it_was():
    """Nobody who holds it may turn a gap into none."""
    outcome = Outcome(verdict("refuted"), "supported", "paper", ("a gap",))
    with pytest.raises(FrozenInstanceError):
        outcome.gaps = ()


def test_statuses_that_were_read_from_a_file_are_equal_to_the_same_words():
    """A baseline's "supported" is another object than ours."""
    read = "".join(["not ", "applicable"])
    assert compare_with_paper(verdict(read)).as_expected
    assert compare_with_base(verdict(read), verdict("not applicable")).as_expected
    given = verdict(read)
    given = replace(given, claim=replace(given.claim, relation=True, id="".join(["C", "14"])))
    assert compare_with_base(given, verdict(read)).as_expected
