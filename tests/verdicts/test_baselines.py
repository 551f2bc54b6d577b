"""Baselines: what is compared, how closely, and what an update leaves alone."""

import hashlib
import json
import math
from pathlib import Path

import pytest

from superweight.claims.baselines import baseline_path, differences, dump, merged, parse, read
from superweight.claims.record import record
from superweight.claims.verdict import (
    AT_LEAST,
    Claim,
    Criterion,
    Measured,
    Verdict,
    counted,
    judged,
    measured,
)
from superweight.core.statistics import Interval

CLAIM = Claim("C3", "sentence", "place")


def number(value, within):
    return {"value": value, "within": within}


@pytest.mark.parametrize(
    ("now", "gaps"),
    [(1.0, 0), (1.25, 0), (0.75, 0), (1.2500001, 1), (0.7499999, 1)],
    ids=["same", "upper edge", "lower edge", "above", "below"],
)
def test_a_measured_number_may_move_by_its_tolerance(now, gaps):
    """The tolerance is absolute, two-sided, and its edge is still within."""
    assert gaps == len(differences({"x": number(1.0, 0.25)}, {"x": number(now, 0.25)}))


def test_the_stored_tolerance_counts_not_the_new_one():
    """A measurement cannot bring a wider tolerance along."""
    assert ["x: was 1 (within 0.1), is 1.5"] == differences({"x": number(1.0, 0.1)}, {"x": number(1.5, 9.0)})


def test_a_counted_number_is_compared_exactly():
    """A tolerance of zero lets nothing pass but the number itself."""
    assert [] == differences({"x": number(3.0, 0.0)}, {"x": number(3.0, 0.0)})
    assert 1 == len(differences({"x": number(3.0, 0.0)}, {"x": number(math.nextafter(3.0, 4), 0.0)}))


@pytest.mark.parametrize("side", ["stored", "new"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, None, "1"], ids=["nan", "infinity", "null", "text"])
def test_what_is_no_number_never_passes(side, bad):
    """NaN, infinity and words differ from everything, themselves included."""
    good, broken = number(1.0, 0.1), number(bad, 0.1)
    stored, new = (broken, good) if side == "stored" else (good, broken)
    assert 1 == len(differences({"x": stored}, {"x": new}))
    assert 1 == len(differences({"x": broken}, {"x": broken}))


@pytest.mark.parametrize(
    "within", [math.nan, math.inf, None, -1.0], ids=["nan", "infinity", "null", "negative"]
)
def test_a_tolerance_that_is_none_never_passes(within):
    """An unlimited or meaningless stored tolerance is a difference even for an equal value."""
    assert 1 == len(differences({"x": number(1.0, within)}, {"x": number(1.0, 0.1)}))


def test_a_widened_tolerance_is_refused():
    """A stored tolerance of more than twice the claim's own does not let a number pass."""
    assert ["x: its tolerance is 0.3; the claim states 0.1"] == differences(
        {"x": number(1.0, 0.3)}, {"x": number(1.2, 0.1)}
    )


def test_a_claim_that_has_grown_lenient_is_refused():
    """A claim that states more than twice the tolerance that was committed would pass what it should not."""
    assert ["x: its tolerance is 0.1; the claim states 0.3"] == differences(
        {"x": number(1.0, 0.1)}, {"x": number(1.0, 0.3)}
    )


@pytest.mark.parametrize(("stored", "stated"), [(0.2, 0.1), (0.1, 0.2)])
def test_a_tolerance_that_scaled_with_its_value_is_accepted(stored, stated):
    """Up to twice and half: a stated tolerance follows the value it was stated for."""
    assert [] == differences({"x": number(1.0, stored)}, {"x": number(1.05, stated)})


def test_a_counted_number_cannot_be_given_a_tolerance():
    """What the claim counts exactly stays exact, however little is conceded."""
    assert 1 == len(differences({"x": number(3.0, 0.5)}, {"x": number(3.0, 0.0)}))


def test_provenance_is_not_compared():
    """What a result was measured with is recorded and may change."""
    assert [] == differences({"provenance": {"torch": "2.6"}}, {"provenance": {"torch": "3.0"}})
    assert [] == differences({"provenance": {"torch": "2.6"}}, {})


def test_only_the_records_own_provenance_is_left_out():
    """A leaf deeper down is compared, whatever its name."""
    assert ['evidence.provenance: was "a", is "b"'] == differences(
        {"evidence": {"provenance": "a"}}, {"evidence": {"provenance": "b"}}
    )


def test_a_missing_and_a_new_key_are_both_told():
    """Every leaf that came or went has a line with its place."""
    assert ["e.gone: was 1, is gone", "e.new: is new, 2"] == differences(
        {"e": {"gone": 1, "same": 0}}, {"e": {"same": 0, "new": 2}}
    )


@pytest.mark.parametrize(
    ("was", "now"),
    [(True, 1), (1, True), (False, 0), (1, 1.0), ("1", 1), (None, 0), (None, False), ([], {}), ("a", "A")],
    ids=lambda value: json.dumps(value),
)
def test_equal_to_python_is_not_the_same_leaf(was, now):
    """Truth, counts, fractions, words and nothing are told apart."""
    assert 1 == len(differences({"x": was}, {"x": now}))


@pytest.mark.parametrize("value", [True, 0, 1.5, "word", None, [], {}, [1, [2, {"a": "b"}]]], ids=json.dumps)
def test_the_same_leaf_is_the_same(value):
    """Nothing differs from its own copy."""
    assert [] == differences({"x": value}, {"x": json.loads(json.dumps(value))})


def test_a_list_is_compared_item_by_item_when_it_is_as_long():
    """A changed item is named by its position; a list of another length by itself."""
    assert ["x[1]: was 2, is 3"] == differences({"x": [1, 2]}, {"x": [1, 3]})
    assert ["x: was [1, 2], is [1]"] == differences({"x": [1, 2]}, {"x": [1]})
    assert 2 == len(differences({"x": [1, 2]}, {"x": [2, 1]}))


def test_a_number_that_lost_its_tolerance_differs():
    """A measured number replaced by a bare one is another kind of leaf."""
    assert ['x: was {"value": 1.0, "within": 0.1}, is 1.0'] == differences(
        {"x": number(1.0, 0.1)}, {"x": 1.0}
    )


def test_a_long_leaf_is_cut_short():
    """A line stays readable: what was and what is take at most 80 characters each."""
    (line,) = differences({"x": "a" * 500}, {"x": "b"})
    assert '"a' in line
    assert line.endswith('..., is "b"')
    assert 110 > len(line)


def test_a_record_holds_what_the_verdict_rests_on():
    """Criteria, evidence and provenance stand in a record, measured numbers with their tolerance."""
    criterion = Criterion("ratio", Measured(12.34567891, 0.2), Interval(11.0, 13.0), 1.5, AT_LEAST)
    verdict = judged(CLAIM, criterion, places=("a", "b"), ratio=Measured(2.0, 0.04), words={"the": 3})
    recorded = record("m", verdict, {"torch": "2.6"})
    assert ["model", "claim", "status", "criteria", "evidence", "provenance"] == list(recorded)
    assert ("m", "C3", "supported") == (recorded["model"], recorded["claim"], recorded["status"])
    (stated,) = recorded["criteria"]
    assert {"value": 12.3457, "within": 0.2} == stated["statistic"]
    assert [11.0, 13.0] == [end["value"] for end in stated["interval"]]
    assert [0.22, 0.26] == pytest.approx([end["within"] for end in stated["interval"]])
    assert {"places": ["a", "b"], "ratio": {"value": 2.0, "within": 0.04}, "words": {"the": 3}} == recorded[
        "evidence"
    ]
    assert {"torch": "2.6"} == recorded["provenance"]


def test_a_counted_criterion_keeps_all_its_digits():
    """What is compared exactly is not rounded, interval included."""
    verdict = judged(CLAIM, counted("count", 1234567.0, 0, AT_LEAST))
    (stated,) = record("m", verdict, {})["criteria"]
    assert number(1234567.0, 0.0) == stated["statistic"]
    assert [number(1234567.0, 0.0)] * 2 == stated["interval"]


def test_a_record_survives_its_file():
    """What is written and read again has no differences."""
    criterion = Criterion("ratio", Measured(12.34567891, 0.2), Interval(11.0, 13.0), 1.5, AT_LEAST)
    recorded = record("m", judged(CLAIM, criterion, text="Füße", ratio=Measured(1e-9, 1e-12)), {})
    assert [] == differences(parse(dump(recorded)), recorded)


def test_nan_cannot_be_written():
    """A baseline that is no JSON is not written in the first place."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump({"x": math.nan})


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"model": "m", "claim": "C1"}'],
    ids=["empty", "broken", "a list", "a number", "no status"],
)
def test_what_is_no_record_is_not_parsed(text):
    """Only an object with model, claim and status is a record."""
    assert parse(text) is None


def test_reading_tells_absent_from_unreadable(tmp_path):
    """No file is None, a file that is no record is empty: the second must not pass for the first."""
    assert read(tmp_path / "absent.json") is None
    (tmp_path / "broken.json").write_text("<<<<<<< HEAD")
    assert {} == read(tmp_path / "broken.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    assert {} == read(tmp_path / "bytes.json")


def test_reading_returns_the_record(tmp_path):
    """A committed baseline comes back as it was written."""
    recorded = record("m", Verdict(CLAIM, "refuted", "because"), {})
    (tmp_path / "C3.json").write_text(dump(recorded), encoding="utf-8")
    assert recorded == read(tmp_path / "C3.json")


def test_an_update_keeps_what_is_within_tolerance():
    """Only leaves that changed are rewritten, so that a diff shows what changed."""
    stored = {"a": number(1.0, 0.1), "b": number(5.0, 0.1), "words": ["x"], "list": [number(1.0, 0.1), "old"]}
    new = {
        "a": number(1.05, 0.11),
        "b": number(6.0, 0.12),
        "words": ["x"],
        "list": [number(1.01, 0.1), "new"],
    }
    assert {
        "a": number(1.0, 0.1),
        "b": number(6.0, 0.12),
        "words": ["x"],
        "list": [number(1.0, 0.1), "new"],
    } == merged(stored, new)


def test_an_update_without_differences_changes_nothing():
    """A record that matches stays as it was, its old provenance included."""
    stored = {"a": number(1.0, 0.1), "provenance": {"torch": "2.6"}}
    assert stored == merged(stored, {"a": number(1.01, 0.1), "provenance": {"torch": "3.0"}})


def test_an_update_renews_the_provenance_of_what_it_changes():
    """A record that changed says what its new numbers were measured with."""
    stored = {"a": 1, "provenance": {"torch": "2.6"}}
    assert {"a": 2, "provenance": {"torch": "3.0"}} == merged(
        stored, {"a": 2, "provenance": {"torch": "3.0"}}
    )


def test_an_update_drops_and_adds_keys():
    """After an update the record has exactly the new one's keys."""
    assert {"same": 1, "new": 2} == merged({"same": 1, "gone": 0}, {"same": 1, "new": 2})


def test_an_update_takes_back_a_widened_tolerance():
    """A tolerance somebody widened is replaced by the stated one."""
    assert {"a": number(1.01, 0.1)} == merged({"a": number(1.0, 5.0)}, {"a": number(1.01, 0.1)})


@pytest.mark.parametrize(
    ("stored", "new"),
    [(1, True), (True, 1), (1, 1.0), ({"a": 1}, [1]), ([1], [1, 2]), (number(1.0, 0.1), 1.0), ("a", None)],
    ids=json.dumps,
)
def test_an_update_leaves_no_difference(stored, new):
    """Whatever was stored, after an update the new result matches."""
    after = merged({"x": stored}, {"x": new})
    assert [] == differences(after, {"x": new})
    assert type(new) is type(after["x"])


def test_each_model_device_dtype_and_claim_has_its_own_path():
    """The path names all four."""
    expected = Path("root/org--name/cuda-bfloat16/C3.json")
    assert expected == baseline_path(Path("root"), "org/name", "cuda", "bfloat16", "C3")


@pytest.mark.parametrize(
    "model",
    [
        "../../x",
        "/etc/passwd",
        "..",
        ".",
        "",
        "...",
        "-",
        "a/../../b",
        "a\\..\\b",
        "C:\\x",
        "~/x",
        "a\0b",
        "a\nb",
    ],
    ids=repr,
)
def test_no_name_leads_out_of_the_root(model, tmp_path):
    """A hostile model name becomes one plain folder, neither hidden nor above the root."""
    path = baseline_path(tmp_path, model, "cpu", "float32", "C1")
    folder, *rest = path.relative_to(tmp_path).parts
    assert ["cpu-float32", "C1.json"] == rest
    assert path == path.resolve()
    assert not folder.startswith((".", "-"))
    assert folder.replace("-", "").replace(".", "").isalnum()


def test_a_record_has_a_model_a_claim_and_a_status():
    """Nothing else is asked of it; a text that lacks one of them is no baseline."""
    whole = {"model": "m", "claim": "C1", "status": "supported"}
    assert whole == parse(json.dumps(whole))
    for name in whole:
        assert parse(json.dumps({key: value for key, value in whole.items() if key != name})) is None


def test_a_tolerance_next_to_none_is_as_good_as_none():
    """Where a claim allows nothing, 1e-12 in a file is no widening, and 1e-11 is."""
    assert [] == differences(number(1.0, 1e-12), number(1.0, 0.0))
    assert ["its tolerance is 1e-11; the claim states 0"] == [
        line.removeprefix(": ") for line in differences(number(1.0, 1e-11), number(1.0, 0.0))
    ]


@pytest.mark.parametrize("length", [200, 201, 300])
def test_a_long_name_keeps_its_end(length, tmp_path):
    """A folder's name of 200 bytes is kept; of a longer one, the last 100 bytes and a digest of it all."""
    model = "".join(str(place % 10) for place in range(length))
    folder = baseline_path(tmp_path, model, "cpu", "float32", "C1").relative_to(tmp_path).parts[0]
    digest = hashlib.sha256(model.encode()).hexdigest()[:16]
    assert (model if length == 200 else f"{model[-100:]}-{digest}") == folder


def near(value, *, half=0.07, threshold=0.07, **changed):
    """The record of a verdict whose interval reaches ``half`` to either side of ``value``."""
    interval = Interval(value - half, value + half)
    verdict = judged(CLAIM, Criterion("share", measured(value, absolute=0.1), interval, threshold, AT_LEAST))
    return record("m", verdict, {}) | changed


def test_an_undecided_verdict_and_a_decided_one_of_the_same_numbers_are_no_difference():
    """C12 on two processors: 0.129 [0.059, 0.199] and 0.177 [0.107, 0.247], of at least 0.07."""
    undecided, decided = near(0.129), near(0.177)
    assert ("inconclusive", "supported") == (undecided["status"], decided["status"])
    assert [] == differences(undecided, decided) == differences(decided, undecided)
    assert undecided == merged(undecided, decided)


@pytest.mark.parametrize(
    ("stored", "new"),
    [
        (near(0.129), near(0.129, status="supported")),
        (near(0.177, status="inconclusive"), near(0.177)),
        (near(0.0, half=0.0699), near(0.0698, threshold=-0.0001, half=0.0699)),
        (near(-0.01, half=0.07), near(0.177)),
        (near(0.129), near(0.177, evidence={"more": 1})),
    ],
    ids=["status by hand", "stored by hand", "other threshold", "other numbers", "other evidence"],
)
def test_an_undecided_verdict_differs_where_its_numbers_do_not_explain_it(stored, new):
    """A status that does not follow from numbers, or follows from other ones, is a change."""
    assert differences(stored, new)


def test_supported_and_refuted_are_never_the_same_measurement():
    """However wide the tolerance: one says yes and the other says no."""
    stored, new = near(0.08, half=0.005), near(0.06, half=0.005)
    for criterion in (*stored["criteria"], *new["criteria"]):
        for item in (criterion["statistic"], *criterion["interval"]):
            item["within"] = 1.0
    assert ("supported", "refuted") == (stored["status"], new["status"])
    assert ['status: was "supported", is "refuted"'] == differences(stored, new)


def of_windows(count, low, high, status="supported", within=0.1, windows_within=48.0):
    """Return a record of one criterion, measured on so many windows."""
    middle = (low + high) / 2
    criterion = {
        "name": "share",
        "statistic": number(middle, within),
        "interval": [number(low, within), number(high, within)],
        "threshold": 0.07,
        "direction": "at least",
    }
    evidence = {"windows": number(count, windows_within), "perplexity": number(50.0 + count, 0.5)}
    return {"model": "m", "claim": "C12", "status": status, "criteria": [criterion], "evidence": evidence}


STORED = of_windows(48.0, 0.126, 0.231)


def test_intervals_of_other_windows_must_meet():
    """Where rounding decides when a test stops, 16 windows and 48 are no difference: as on an H200."""
    new = of_windows(16.0, 0.0756, 0.395, within=0.173)
    assert [] == differences(STORED, new)
    assert STORED == merged(STORED, new)


@pytest.mark.parametrize(
    "new",
    [
        of_windows(16.0, 0.45, 0.9),
        of_windows(16.0, -0.5, -0.1, status="refuted"),
        of_windows(16.0, 0.0756, 0.395, status="refuted"),
        {**of_windows(16.0, 0.0756, 0.395), "model": "another"},
        of_windows(48.0, 0.0756, 0.395),
        of_windows(16.0, 0.0756, 0.395, windows_within=0.0),
        of_windows(16.0, math.nan, 0.395),
        {**of_windows(16.0, 0.0756, 0.395), "criteria": []},
    ],
    ids=["apart", "refuted", "status", "model", "as many windows", "counted windows", "nan", "no criterion"],
)
def test_what_other_windows_do_not_explain_differs(new):
    """Intervals that lie apart, another status, and numbers of the same windows."""
    assert differences(STORED, new)


def test_a_tolerance_widened_by_hand_lets_no_interval_pass():
    """What counts is what the claim states, twice over."""
    assert differences(of_windows(48.0, 0.126, 0.231, within=1e9), of_windows(16.0, 0.45, 0.9))


def test_fewer_windows_that_do_not_decide_are_no_difference():
    """An interval of fewer windows is wider, and may reach over the threshold."""
    assert [] == differences(STORED, of_windows(16.0, 0.05, 0.4, status="inconclusive"))
    assert differences(STORED, of_windows(16.0, 0.08, 0.4, status="inconclusive"))
