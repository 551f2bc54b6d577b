"""Too little memory for a whole batch: smaller pieces give the same numbers, and the log says so."""

from __future__ import annotations

import json
import logging
from fnmatch import fnmatch

import numpy as np
import pytest
import torch

from superweight.core.errors import TooLarge
from superweight.detection.scan import scan
from superweight.measurement import hidden_states
from superweight.measurement.conditions import INTACT, treatments
from superweight.measurement.corpus import cut, default_prompt, documents
from superweight.measurement.evaluate import measure

FAILURES = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    "Python": MemoryError(),
}


@pytest.fixture(scope="module")
def material(planted):
    """Eight windows and every treatment of the planted model."""
    windows = cut(planted, documents("builtin"), "builtin", count=8)
    return windows, treatments(scan(planted, default_prompt()))


def short_of(monkeypatch, failure, *, windows, conditions):
    """Let a pass fail that computes on more than so many windows or conditions at once."""
    decode_batched, tried = hidden_states.decode_batched, []

    def short(subject, ids, wanted):
        tried.append((len(ids), len(wanted)))
        if len(ids) > windows or len(wanted) > conditions:
            raise failure
        return decode_batched(subject, ids, wanted)

    monkeypatch.setattr(hidden_states, "decode_batched", short)
    return tried


@pytest.mark.parametrize("where", FAILURES)
@pytest.mark.parametrize(("windows", "conditions"), [(3, 99), (1, 99), (1, 2), (1, 1)])
def test_smaller_pieces_give_the_same_numbers(
    planted, material, monkeypatch, caplog, where, windows, conditions
):
    """Halved as often as it takes, first the windows and then the conditions; every halving is logged."""
    text, changes = material
    whole = measure(planted, text, changes, batch=8)
    tried = short_of(monkeypatch, FAILURES[where], windows=windows, conditions=conditions)
    pieces = measure(planted, text, changes, batch=8)
    assert {INTACT, *(change.name for change in changes)} == whole.keys() == pieces.keys()
    for name, measurement in whole.items():
        assert np.allclose(measurement.nll, pieces[name].nll, rtol=1e-5, atol=1e-6), name
        assert np.allclose(measurement.kl, pieces[name].kl, rtol=1e-4, atol=1e-6), name
    failed = [size for size in tried if size[0] > windows or size[1] > conditions]
    assert len(failed) == len(caplog.messages) > 0
    assert all("out of memory" in message for message in caplog.messages)


def test_what_never_fits_is_bad_input(planted, material, monkeypatch):
    """One condition on one window is the least; beyond it a line says what does not fit."""
    text, changes = material
    short_of(monkeypatch, FAILURES["CUDA"], windows=0, conditions=0)
    with pytest.raises(TooLarge, match="tiny-planted does not fit in memory beside one window"):
        measure(planted, text, changes)


NOTE = "out of memory with * windows at once; going on with half of them"


@pytest.mark.usefixtures("drawn_once")
def test_a_check_records_that_it_went_on_in_halves(superweight, monkeypatch, tmp_path):
    """On stderr, once, and in the report, which says with what the numbers were made."""
    short_of(monkeypatch, FAILURES["CUDA"], windows=1, conditions=99)
    result = superweight("check", "tiny-planted", "--report", str(tmp_path))
    assert 0 == result.exit_code
    notes = json.loads((tmp_path / "report.json").read_text())["run"]["notes"]
    assert notes == [line.removeprefix("note: ") for line in result.stderr.splitlines() if "note: " in line]
    assert notes
    assert all(fnmatch(note, NOTE) for note in notes)
    assert f"<p>Note: {notes[0]}</p>" in (tmp_path / "report.html").read_text()


@pytest.mark.usefixtures("drawn_once")
def test_a_pytest_run_records_that_it_went_on_in_halves(run, monkeypatch, tmp_path):
    """In its summary and in its report; the verdicts are those of the baseline."""
    short_of(monkeypatch, FAILURES["CUDA"], windows=1, conditions=99)
    options = ("--sw-model", "tiny-planted", "--sw-report", str(tmp_path))
    result = run(*options, claims="perplexity")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"note: {NOTE}"])
    assert all(
        fnmatch(note, NOTE) for note in json.loads((tmp_path / "report.json").read_text())["run"]["notes"]
    )


def test_a_run_in_which_nothing_was_halved_has_no_notes(superweight):
    """A note is kept for the run that it belongs to, and for no later one; nothing is left listening."""
    listening = list(logging.getLogger("superweight").handlers)
    result = superweight("check", "tiny-plain", "--json", "-")
    assert listening == logging.getLogger("superweight").handlers
    assert [] == json.loads(result.stdout)["run"]["notes"]
    assert "note: " not in result.stderr


def test_another_error_is_not_taken_for_one_of_memory(planted, material, monkeypatch):
    """What breaks for another reason, one condition at a time as well, is not tried in smaller pieces."""
    text, changes = material
    failure = RuntimeError("shapes do not fit")
    tried = short_of(monkeypatch, failure, windows=0, conditions=0)
    monkeypatch.setattr(hidden_states, "decode_one_by_one", lambda *_: (_ for _ in ()).throw(failure))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        measure(planted, text, changes, batch=8)
    assert 1 == len(tried)
