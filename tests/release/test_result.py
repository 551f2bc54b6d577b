"""What a comparison says of its checks: verdict, order of reasons, and what never passes."""

from __future__ import annotations

import json
import math

import pytest

from superweight.core.errors import HarnessError
from superweight.release.limits import Limits, read_limits
from superweight.release.result import (
    QUALITY,
    STATIC,
    Check,
    Comparison,
    as_markdown,
    as_text,
    broken,
    cannot_judge,
    graded,
    joined,
    not_comparable,
    within,
)

UNDECIDED = "cannot be judged: changed, and only a forward pass tells whether that matters"
NOT_REACHED = "cannot be judged: quality not reached"


def comparison(*checks):
    return Comparison("base", "release", checks)


def test_within_its_limit_is_kept_and_beyond_it_damaged():
    """An excess of 1 is the limit itself, which is still within."""
    assert ["kept", "damaged"] == [within(STATIC, "x", "", excess).status for excess in (1.0, 1.001)]


@pytest.mark.parametrize(
    ("excess", "worse", "status"),
    [(0.5, False, "kept"), (0.5, True, "degraded"), (1.5, True, "damaged"), (1.5, False, "damaged")],
)
def test_what_is_worse_within_its_limit_is_degraded(excess, worse, status):
    """Beyond the limit it is damage, whatever else is said of it."""
    assert status == graded(STATIC, "x", "", excess, worse=worse).status


def test_notes_measure_nothing():
    """What could not be looked at, or has nothing to be held against, is beyond no limit."""
    assert [0.0, 0.0] == [make(STATIC, "x", "why").excess for make in (cannot_judge, not_comparable)]


def test_a_depth_is_reached_by_what_was_judged_at_it_alone():
    """Neither a note at that depth nor a verdict at another one reaches it."""
    checks = (not_comparable(STATIC, "x", "why"), within(QUALITY, "y", "", 0.0))
    assert (STATIC,) == Comparison("base", "release", checks, (STATIC,)).unreached
    assert () == Comparison("base", "release", checks, (QUALITY,)).unreached


def test_it_shows_as_the_terminal_reads_it():
    """``repr`` is the text, not the fields."""
    shown = comparison(within(STATIC, "x", "fine", 0.0))
    assert as_text(shown).rstrip() == repr(shown)


def test_an_excess_that_is_no_number_is_damage():
    """NaN compares false with everything, so it must not be what passes; and it is no small matter."""
    unknown = within(STATIC, "x", "nobody knows", float("nan"))
    result = comparison(within(QUALITY, "y", "twice", 2.0), unknown)
    assert "damaged" == unknown.status == result.verdict
    assert ("nobody knows", "twice") == result.reasons


def test_a_figure_that_is_no_number_is_null_in_the_contract():
    """JSON knows neither infinity nor NaN, and a writer that refuses them must not stop the gate."""
    check = within(QUALITY, "x", "", 2.0, ratio=math.inf, interval=[math.nan, 1.5], share=0.5)
    figures = json.loads(json.dumps(check.as_dict(), allow_nan=False))["figures"]
    assert {"ratio": None, "interval": [None, 1.5], "share": 0.5} == figures


def test_the_worst_reason_stands_first_and_the_unknown_last():
    """Faults that no limit measures lead; of equals the one that was looked at first."""
    result = comparison(
        not_comparable(STATIC, "a", "not compared"),
        within(STATIC, "b", "a little", 1.1),
        within(QUALITY, "c", "a lot", 50.0),
        broken(QUALITY, "d", "broken"),
        broken(STATIC, "e", "broken as well"),
        within(STATIC, "f", "fine", 0.1),
    )
    assert ("broken", "broken as well", "a lot", "a little", "not compared") == result.reasons


def test_a_comparison_of_nothing_is_no_pass():
    """Without a single check that was kept, nothing was vouched for; without checks there is no result."""
    assert "cannot be judged" == comparison(not_comparable(STATIC, "a", "not compared")).verdict
    with pytest.raises(HarnessError, match="in no respect"):
        comparison()


def noted(status, depth=STATIC):
    # A status as it is read from a file: equal to ours, and another object.
    return Check(depth, "x", "".join(list(status)), f"it is {status}")


@pytest.mark.parametrize(
    ("checks", "required", "headline", "degraded"),
    [
        ((noted("kept"),), (), "kept", False),
        ((noted("degraded"),), (), "kept, degraded", True),
        ((noted("degraded"), noted("damaged")), (), "damaged", False),
        ((noted("kept"), noted("damaged")), (STATIC,), "damaged", False),
        ((noted("changed"),), (), UNDECIDED, False),
        ((noted("changed"), noted("kept", QUALITY)), (), "kept", False),
        ((noted("changed"), noted("cannot be judged", QUALITY)), (QUALITY,), NOT_REACHED, False),
        ((noted("cannot be judged", QUALITY), noted("kept")), (QUALITY,), NOT_REACHED, False),
        ((noted("damaged"), noted("cannot be judged", QUALITY)), (QUALITY,), "damaged", False),
        ((noted("not comparable"),), (), "cannot be judged", False),
    ],
)
def test_the_headline_is_the_verdict_with_what_a_person_must_know(checks, required, headline, degraded):
    """Damage first, then what was not reached or not decided, then what is worse."""
    result = Comparison("base", "release", checks, required)
    assert (headline, degraded) == (result.headline, result.degraded)


def test_reasons_are_damage_then_doubt_then_loss_then_change_then_what_was_left_out():
    """What is kept gives no reason."""
    statuses = ("kept", "not comparable", "changed", "degraded", "cannot be judged", "damaged")
    expected = [f"it is {status}" for status in reversed(statuses[1:])]
    assert expected == list(comparison(*map(noted, statuses)).reasons)


def test_markup_in_a_name_stays_text():
    """A model's name comes from outside; it opens no tag and ends no cell."""
    result = Comparison("<b>", "a|b`c", (within(STATIC, "x", "<script> | y", 0.0),))
    text = as_markdown(result)
    assert "<" not in text
    assert r"a\|b'c" in text
    assert r"&lt;script> \| y" in text


def test_a_terminal_reads_every_check_then_the_verdict_then_the_reasons():
    """Three kinds of line, in that order."""
    text = as_text(comparison(within(STATIC, "x", "fine", 0.0), broken(STATIC, "y", "bad")))
    assert ["fine", "bad", "damaged", "bad"] == [line.split()[-1] for line in text.splitlines()]


def test_a_long_list_is_cut_with_its_length():
    """Three are named; how many more there are is said."""
    assert ("a, b, c", "a, b, c and 2 more") == (joined("abc"), joined("abcde"))
    assert ("", "a") == (joined(""), joined("a"))


def test_limits_come_from_pyproject_unless_a_file_is_named(tmp_path, monkeypatch):
    """The working directory's pyproject.toml, its table only; without one, the defaults."""
    monkeypatch.chdir(tmp_path)
    assert Limits() == read_limits(None)
    (tmp_path / "pyproject.toml").write_text("[tool.superweight.compare]\nvalue_error = 0.125\n")
    assert Limits(value_error=0.125) == read_limits(None)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert Limits() == read_limits(tmp_path / "bare" / "pyproject.toml")
    (tmp_path / "own.toml").write_text("same_top = 0.875\n")
    assert Limits(same_top=0.875) == read_limits(tmp_path / "own.toml")


ENGINES = "predictions and text: the base's in {}, the release's in {}"


@pytest.mark.parametrize(
    "engines", [("llama.cpp", "transformers"), ("transformers", "llama.cpp"), ("llama.cpp", "llama.cpp")]
)
def test_another_engine_of_either_model_is_told_everywhere(engines):
    """In the contract, on the terminal and in the summary."""
    told = Comparison("base", "release", (within(STATIC, "x", "", 0.5),), engines=engines)
    assert {"base": engines[0], "release": engines[1]} == told.as_dict()["engines"]
    assert ENGINES.format(*engines) in as_text(told)
    assert ENGINES.format(*engines) in as_markdown(told)


def test_the_engine_of_all_is_not_told():
    """Who asked for no other has nothing to read of engines."""
    told = comparison(within(STATIC, "x", "", 0.5))
    assert "engines" not in told.as_dict()
    assert "predictions and text" not in as_text(told) + as_markdown(told)


def test_the_summary_is_markdown_with_a_blank_line_between_its_parts():
    """A table behind a list needs one; where there are no reasons, there is one blank line and not two."""
    told = comparison(within(STATIC, "x", "was seen", 2.0))
    assert [
        "### Super weights: damaged",
        "",
        "`release` against `base`",
        "",
        "- was seen",
        "",
        "| depth | check | status | found |",
        "|---|---|---|---|",
        "| static | x | damaged | was seen |",
    ] == as_markdown(told).splitlines()
    kept = as_markdown(comparison(within(STATIC, "x", "as it was", 0.5))).splitlines()
    assert ["", "| depth | check | status | found |"] == kept[3:5]
