"""The same command gives the same numbers, to the last bit, and the same report but for its times."""

from __future__ import annotations

import json

import pytest


def without_times(document):
    """Return a report without what tells when it was made and how long it took."""
    run = {name: part for name, part in document["run"].items() if name not in ("stages", "date", "command")}
    stages = [stage["stage"] for stage in document["run"]["stages"]]
    return {**document, "run": {**run, "stages": stages}}


@pytest.mark.slow
def test_a_report_is_the_same_twice(superweight, tmp_path):
    """Verdicts, intervals, continuations and the figures' drawings: compared as text, so bit for bit."""
    reports, drawings = [], []
    for name in ("first", "second"):
        out = tmp_path / name
        assert 0 == superweight("check", "tiny-planted", "--report", str(out)).exit_code
        reports.append(json.loads((out / "report.json").read_text()))
        drawings.append({path.name: path.read_bytes() for path in (out / "figures").glob("*.svg")})
    first, second = (json.dumps(without_times(report)) for report in reports)
    assert first == second
    assert drawings[0] == drawings[1] != {}
    assert reports[0]["run"]["stages"]


@pytest.mark.parametrize("command", ["scan", pytest.param("sweep", marks=pytest.mark.slow)])
def test_json_is_the_same_twice(superweight, tmp_path, command):
    """What a program reads has no times in it: the files are equal."""
    for name in ("first", "second"):
        assert 0 == superweight(command, "tiny-planted", "--json", str(tmp_path / name)).exit_code
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
