"""The command ``superweight compare``: exit codes, what it prints, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from superweight.checkpoints.registry import resolve
from superweight.claims.run_config import RunConfig
from superweight.core.coordinates import Coordinate
from tests.release.releases import DAMAGED, make

CLAIMS = Path(__file__).parents[1] / "claims"
PLACE = Coordinate(1, 41, 23)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    entry = resolve("tiny-planted")
    change, _ = DAMAGED["super weight pruned"]
    return make(entry.root / entry.source, tmp_path_factory.mktemp("made") / "pruned", change, [PLACE])


def test_kept_exits_0_and_says_so(superweight):
    """The last line is the verdict; no reason follows it."""
    result = superweight("compare", "tiny-planted", "tiny-tuned", "--depth", "static")
    assert 0 == result.exit_code
    assert "tiny-tuned against tiny-planted: kept" == result.stdout.splitlines()[-1]


def test_damaged_exits_1_and_gives_the_contract(superweight, pruned, tmp_path):
    """The JSON holds base, release, verdict, reasons and checks; no number in it is NaN."""
    target = tmp_path / "comparison.json"
    options = ("--depth", "static", "--json", str(target))
    result = superweight("compare", "tiny-planted", str(pruned), *options)
    assert 1 == result.exit_code
    document = json.loads(target.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert {"base", "release", "verdict", "reasons", "checks"} == document.keys()
    assert ("tiny-planted", "damaged") == (document["base"], document["verdict"])
    assert f"super weight {PLACE} was pruned: from 4 to 0" == document["reasons"][0]
    assert {"depth", "check", "status", "reason", "figures"} == document["checks"][0].keys()


def test_markdown_is_a_table_under_a_verdict(superweight, pruned):
    """Fit for a model card and a job summary."""
    options = ("--depth", "static", "--format", "markdown")
    lines = superweight("compare", "tiny-planted", str(pruned), *options).stdout.splitlines()
    assert "### Super weights: damaged" == lines[0]
    assert "| depth | check | status | found |" in lines
    assert f"- super weight {PLACE} was pruned: from 4 to 0" in lines


def test_limits_are_read_and_used(superweight, tmp_path):
    """A limit that a release exceeds turns it damaged; here the tuned model's perplexity."""
    (tmp_path / "limits.toml").write_text("perplexity_ratio = 1.01\n")
    options = ("--depth", "quality", "--limits", str(tmp_path / "limits.toml"))
    result = superweight("compare", "tiny-planted", "tiny-tuned", *options)
    assert 1 == result.exit_code
    assert "perplexity on code is" in result.stdout.splitlines()[-2]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("perplexity_ratio = nan", "is not a finite number above 0"),
        ("perplexity_ratio = inf", "is not a finite number above 0"),
        ("value_error = -1", "is not a finite number above 0"),
        ("value_error = 'much'", "a limit is wrong: Expected `float`, got `str` - at `value_error`"),
        ("value_error = true", "got `bool` - at `value_error`"),
        ("value_eror = 0.1", "unknown limit 'value_eror'; known are"),
        ("[tool", "cannot read limits from"),
        ("[tool.superweight]\ncompare = 3", "is no table"),
    ],
)
def test_bad_limits_are_refused(superweight, tmp_path, text, fault):
    """One line with the file and the fault, exit 4: a limit of NaN would pass everything."""
    (tmp_path / "limits.toml").write_text(text)
    limits = str(tmp_path / "limits.toml")
    result = superweight("compare", "tiny-planted", "tiny-tuned", "--depth", "static", "--limits", limits)
    assert 4 == result.exit_code
    (line,) = result.stderr.splitlines()
    assert "limits.toml" in line
    assert fault in line


@pytest.mark.parametrize("depth", ["static", "activations", "quality", "all"])
def test_what_is_no_model_is_bad_input_at_every_depth(superweight, tmp_path, depth):
    """A directory of pictures exits 4 in one line, as base and as release."""
    (tmp_path / "cat.png").write_bytes(b"\x89PNG")
    for pair in (("tiny-planted", str(tmp_path)), (str(tmp_path), "tiny-planted")):
        result = superweight("compare", *pair, "--depth", depth)
        assert 4 == result.exit_code
        assert 1 == len([line for line in result.stderr.splitlines() if line.startswith("superweight: ")])
        assert "Traceback" not in result.stderr


def test_several_releases_of_one_base_are_judged_in_turn(superweight, pruned, tmp_path, monkeypatch):
    """One block of text each, a list of contracts, and the base is loaded once; one damaged exits 1."""
    loaded = []
    load = RunConfig.load
    monkeypatch.setattr(
        RunConfig, "load", lambda self, spec, *rest: loaded.append(str(spec)) or load(self, spec, *rest)
    )
    target = tmp_path / "comparisons.json"
    options = ("--depth", "activations", "--json", str(target))
    result = superweight("compare", "tiny-planted", "tiny-tuned", str(pruned), *options)
    assert 1 == result.exit_code
    assert ["tiny-planted", "tiny-tuned", str(pruned)] == loaded
    assert ["kept", "damaged"] == [document["verdict"] for document in json.loads(target.read_text())]
    assert "tiny-tuned against tiny-planted: kept" in result.stdout.splitlines()


def test_a_report_is_of_one_release(superweight, pruned, tmp_path):
    """Two are refused in one line."""
    options = ("--report", str(tmp_path / "report"))
    result = superweight("compare", "tiny-planted", "tiny-tuned", str(pruned), *options)
    assert 4 == result.exit_code
    assert "--report shows one comparison; give it one RELEASE" in result.stderr


def test_pytest_compares_where_a_base_is_given(project, pruned):
    """With --sw-base the comparison is one more test, and its reasons are the failure; without, none."""
    shutil.copy(CLAIMS / "test_release.py", project.path)
    options = ("-p", "no:cacheprovider", "test_release.py")
    against = ("--sw-base", "tiny-planted")
    kept = project.runpytest_inprocess(*options, *against, "--sw-model", "tiny-tuned")
    kept.assert_outcomes(passed=1)
    damaged = project.runpytest_inprocess(*options, *against, "--sw-model", str(pruned))
    damaged.assert_outcomes(failed=1)
    damaged.stdout.fnmatch_lines(["*super weight [[]1, 41, 23] was pruned: from 4 to 0*"])
    alone = project.runpytest_inprocess(*options, "--sw-model", "tiny-tuned")
    alone.assert_outcomes()
