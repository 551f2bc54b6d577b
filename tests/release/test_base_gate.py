"""The gate over all claims, whole, through both doors: a base against a copy, a fine-tune, and damage."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import superweight as sw
from superweight.claims.evidence import Evidence
from superweight.core.statistics import Interval
from superweight.fleet.judgement import judged_document
from superweight.fleet.row import CANNOT_JUDGE
from superweight.release.result import QUALITY, Comparison, cannot_judge
from tests.helpers.checkpoint_files import copy_checkpoint

from .releases import DAMAGED, make
from .test_compare import PLACE

CLAIMS = Path(__file__).parents[1] / "claims"
# Claims in the paper's order, and the comparison of the two.
TESTS = 15


@pytest.fixture
def folder(tmp_path):
    """A base, and three releases of it."""
    base = copy_checkpoint("tiny-planted", tmp_path / "base")
    shutil.copytree(base, tmp_path / "same")
    copy_checkpoint("tiny-tuned", tmp_path / "tuned")
    make(base, tmp_path / "pruned", DAMAGED["super weight pruned"][0], [PLACE])
    return tmp_path


@pytest.mark.parametrize(("release", "code"), [("same", 0), ("tuned", 0), ("pruned", 1)])
def test_check_with_a_base(folder, superweight, release, code):
    """A byte-identical copy and an ordinary fine-tune are as expected, with every claim; damage is not."""
    result = superweight("check", str(folder / release), "--base", str(folder / "base"))
    assert code == result.exit_code, result.output
    assert ("as expected: 14 of 14 claims" in result.output) is (code == 0)


def test_check_without_a_base_knows_what_a_model_was_tuned_from(superweight):
    """The registry says it of tiny-tuned, and C14 is judged."""
    result = superweight("check", "tiny-tuned", "--json", "-")
    rows = {row["claim"]: row["status"] for row in json.loads(result.stdout)["verdicts"]}
    assert (0, "supported") == (result.exit_code, rows["C14"])


@pytest.mark.parametrize(
    ("release", "fails"),
    [("same", False), pytest.param("tuned", False, marks=pytest.mark.slow), ("pruned", True)],
)
def test_pytest_with_a_base(folder, project, release, fails):
    """The same by pytest, from relative paths as a person types them, the comparison included."""
    shutil.copy(CLAIMS / "test_release.py", project.path)
    for name in ("base", release):
        shutil.copytree(folder / name, project.path / name)
    result = project.runpytest_inprocess(
        "-p", "no:cacheprovider", "--sw-model", f"./{release}", "--sw-base", "./base"
    )
    outcomes = result.parseoutcomes()
    if fails:
        assert outcomes["failed"] > 1
        result.stdout.fnmatch_lines(["*test_a_release_keeps_what_its_base_has*"])
    else:
        assert {"passed": TESTS} == outcomes


@pytest.fixture
def undecided(monkeypatch):
    """Leave C3 of the release open, with an interval that meets its base's."""
    judged = Evidence.verdict

    def verdict(evidence, judge):
        given = judged(evidence, judge)
        if given.claim.id != "C3" or "same" not in evidence.subject.name:
            return given
        (criterion,) = given.criteria
        wide = replace(criterion, interval=Interval(1.0, criterion.interval.high))
        return replace(given, status=wide.status, criteria=(wide,))

    monkeypatch.setattr(Evidence, "verdict", verdict)


@pytest.mark.usefixtures("undecided")
def test_a_claim_left_open_is_no_damage_and_no_pass(folder, superweight):
    """Where the base's is decided and the intervals meet: 3; page and fleet say what it would need."""
    options = ("--base", str(folder / "base"), "--report", str(folder / "out"))
    result = superweight("check", str(folder / "same"), *options)
    assert 3 == result.exit_code, result.output
    needed = "more text: the base model has supported"
    document = json.loads((folder / "out" / "report.json").read_text())
    assert {"C3": needed} == {row["claim"]: row["unmet"] for row in document["verdicts"] if "unmet" in row}
    page = (folder / "out" / "report.html").read_text()
    assert "1 of 14 claims could not be judged: C3." in page
    assert f"not judged: it needs {needed}" in page
    judgement = judged_document(document)
    assert (CANNOT_JUDGE, f"1 of 14 claims could not be judged: C3 needs {needed}") == (
        judgement.status,
        judgement.reason,
    )
    assert "not judged by as much text: C3; give more with --corpus FILE." in result.output
    assert "as expected: 13 of 14 claims" in result.output


@pytest.mark.usefixtures("undecided")
def test_a_claim_left_open_is_no_pass_in_python(folder):
    """It is marked in the table and in words, and the whole is not as expected."""
    checked = sw.check(str(folder / "same"), base=str(folder / "base"))
    assert not checked.as_expected
    (line,) = [line for line in repr(checked).splitlines() if line.startswith("! ")]
    assert line.endswith("(not judged: it needs more text: the base model has supported)")
    assert 1 == checked._repr_html_().count("not judged")


@pytest.mark.usefixtures("undecided")
def test_a_claim_left_open_is_no_damage_to_pytest(folder, project):
    """The one test says that it cannot be judged; a gate that was not passed is none, so it fails."""
    for name in ("base", "same"):
        shutil.copytree(folder / name, project.path / name)
    result = project.runpytest_inprocess(
        *("-p", "no:cacheprovider", "-k", "multiplies or known_place"),
        *("--sw-model", "./same", "--sw-base", "./base"),
    )
    result.assert_outcomes(passed=1, failed=1, deselected=12)
    result.stdout.fnmatch_lines(["*cannot be judged here: C3 on ./same*needs more text: the base model has*"])


def test_a_comparison_that_reaches_too_little_is_an_error(folder, project, monkeypatch):
    """By its headline and its reasons, without a traceback through the plugin."""
    shutil.copy(CLAIMS / "test_release.py", project.path)
    for name in ("base", "same"):
        shutil.copytree(folder / name, project.path / name)
    unreached = cannot_judge(QUALITY, "predictions", "there is no memory")
    short = Comparison("base", "same", (unreached,), (QUALITY,))
    monkeypatch.setattr("superweight.release.compare.compare_loaded", lambda *_: short)
    result = project.runpytest_inprocess(
        *("-p", "no:cacheprovider", "-k", "keeps_what"), *("--sw-model", "./same", "--sw-base", "./base")
    )
    result.assert_outcomes(errors=1, deselected=14)
    result.stdout.fnmatch_lines(["*cannot be judged*there is no memory*"])
    result.stdout.no_fnmatch_line("*plugin/plugin.py*")


def test_what_cannot_be_judged_is_an_error_and_no_failed_claim(folder, project):
    """A release of an unknown architecture: every test errs with the reason, no claim is called failed."""
    for name in ("base", "same"):
        shutil.copytree(folder / name, project.path / name)
    config = project.path / "same" / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"not-yet-known"'))
    summary = project.path / "summary.md"
    result = project.runpytest_inprocess(
        "-p", "no:cacheprovider", "--sw-model", "./same", "--sw-base", "./base", "--sw-summary", str(summary)
    )
    assert {"errors": 14} == result.parseoutcomes()
    assert "- **./same** was not judged: ./same cannot be judged here: " in summary.read_text()
