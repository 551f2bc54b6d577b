"""What the command shows: how far it is, what came of it, and how it ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from superweight.cli import fleet as command
from superweight.core.errors import BadInput
from superweight.fleet import Counts, Result, cluster
from superweight.fleet.row import AS_EXPECTED, CANNOT_JUDGE, CRASHED, NOT_AS_EXPECTED, TIMED_OUT

REPORTS = Path(__file__).parents[2] / "docs" / "gallery"


def test_how_far_a_fleet_is_is_said_in_a_line():
    """Done, of how many, running, what is not as expected, what is left."""
    counts = Counts(12, 2, 0, {AS_EXPECTED: 3, CRASHED: 1}, 90.4)
    assert "4 of 12 done, 2 running, 1 not as expected or not judged, about 0:01:30 left" == command.said(
        counts
    )
    assert "0 done, 0 running, 0 not as expected or not judged" == command.said(Counts())


def test_a_line_a_model_for_a_few_and_now_and_then_for_many(capsys):
    """A log of a night is read."""
    for total, lines in ((5, 6), (500, 6)):
        tell = command._lines()
        for done in range(total + 1):
            tell(Counts(total, 1, 0, {AS_EXPECTED: done}))
        assert lines == len(capsys.readouterr().err.splitlines())


@pytest.mark.parametrize(
    ("counts", "code"),
    [
        ({AS_EXPECTED: 2}, 0),
        ({AS_EXPECTED: 2, NOT_AS_EXPECTED: 1}, 1),
        ({CANNOT_JUDGE: 1, NOT_AS_EXPECTED: 1}, 1),
        ({AS_EXPECTED: 2, CANNOT_JUDGE: 1}, 3),
        ({CRASHED: 1}, 3),
        ({TIMED_OUT: 1}, 3),
    ],
)
def test_damage_comes_before_what_could_not_be_judged(counts, code):
    """0: all as expected; 1: some not; 3: some could not be judged."""
    assert code == Result(counts, 0, 0, "out").exit_code


def test_without_ray_the_extra_is_named(monkeypatch):
    """In one line."""
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"superweight-harness\[fleet\]"):
        cluster.require_ray()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1: "),
        ("ray://localhost:1", "no Ray cluster answers at ray://localhost:1: "),
        ("head", "names no cluster; give host:6379"),
    ],
)
def test_a_cluster_that_does_not_answer_is_refused_at_once(refusal, address, said):
    """Nobody waits for minutes to learn of a misspelt address."""
    assert said in refusal(cluster.require_answer, address)


@pytest.mark.slow
def test_a_fleet_of_stored_reports_through_ray(superweight, tmp_path):
    """Judged as they say; the second time nothing is done again; the registry of it knows the models."""
    pytest.importorskip("ray", reason="needs Ray: pip install '.[fleet]'")
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install '.[fleet]'")
    shutil.copytree(REPORTS, tmp_path / "reports")
    fleet, out = tmp_path / "fleet.toml", tmp_path / "out"
    fleet.write_text('[[models]]\nmodel = "reports/*.json"\nmode = "report"\npages = false\n')
    first = superweight("fleet", str(fleet), "--out", str(out), "--cpus", "1")
    assert 1 == first.exit_code, first.output
    assert "6 models: 1 not as expected, 5 as expected" in first.stdout
    again = superweight("fleet", str(fleet), "--out", str(out), "--cpus", "1")
    assert "6 models: 1 not as expected, 5 as expected; 6 were done before" in again.stdout
    assert "0 changed since the last run" in again.stdout
    assert f"index: {out}/index.html" in again.stderr
    assert 0 == superweight("fleet", "report", str(out)).exit_code
    known = superweight("models", "--registry", str(out / "index.json"), "reports/tiny-planted.json")
    assert "[1, 41, 23]" in known.stdout
