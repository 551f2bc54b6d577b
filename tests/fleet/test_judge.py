"""What comes of one model, in this process: each mode shown to pass what is sound and to fail what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.range_server import folder, serving
from superweight.checkpoints.index_registry import also_reading
from superweight.claims.run_config import RunConfig
from superweight.core.errors import BadInput, BrokenModel
from superweight.fleet.job import CHECK, COMPARE, SCAN, Job
from superweight.fleet.judge import judge
from superweight.fleet.judgement import judged_document
from superweight.fleet.row import AS_EXPECTED, CANNOT_JUDGE, NOT_AS_EXPECTED, Place, Row
from superweight.fleet.summary import with_judgement
from tests.helpers.checkpoint_files import copy_checkpoint, rewrite
from tests.helpers.planted_release import DOWN

from .rows import index, named

REPORTS = Path(__file__).parents[2] / "docs" / "gallery"
NOWHERE = {"baselines": "no-such-folder", "device": "cpu"}


def stored(name):
    return json.loads((REPORTS / f"{name}.json").read_text(encoding="utf-8"))


def test_a_comparison_is_held_to_the_verdict_that_is_expected():
    """Kept by default; damage may be what is expected, of a model that was damaged on purpose."""
    for name, verdict in (("compared-tuned", "kept"), ("compared-damaged", "damaged")):
        for expected in ("kept", "damaged"):
            judged = judged_document(stored(name), expected)
            status = AS_EXPECTED if verdict == expected else NOT_AS_EXPECTED
            assert (status, verdict) == (judged.status, judged.verdict)
            assert bool(judged.unexpected) == (status == NOT_AS_EXPECTED)


def test_a_comparison_that_reached_nothing_cannot_be_judged():
    """It is neither damage nor kept, unless that is what is expected."""
    document = stored("compared-tuned")
    document["comparison"]["verdict"] = CANNOT_JUDGE
    assert CANNOT_JUDGE == judged_document(document).status
    assert AS_EXPECTED == judged_document(document, CANNOT_JUDGE).status


def test_a_check_is_as_expected_where_every_claim_is():
    """One claim with a gap is enough; several models in one report are refused."""
    document = stored("tiny-planted")
    judged = judged_document(document)
    assert (AS_EXPECTED, "12 supported", "baseline") == (judged.status, judged.verdict, judged.expected_by)
    document["verdicts"][2] |= {"as_expected": False, "gaps": ["it rose"]}
    judged = judged_document(document)
    assert (NOT_AS_EXPECTED, ("C3: it rose",)) == (judged.status, judged.unexpected)
    with pytest.raises(BadInput, match="several models"):
        judged_document({"models": [document, document]})


def test_a_model_met_for_the_first_time_says_so():
    """Nothing was there to be held to: as expected, and by nobody."""
    document = stored("tiny-planted")
    for row in document["verdicts"]:
        row |= {"expected": None, "expected_by": None}
    judged = judged_document(document)
    assert (AS_EXPECTED, None) == (judged.status, judged.expected_by)
    assert "nothing was compared" in judged.reason


@pytest.mark.parametrize(
    ("mode", "expect", "status"),
    [
        (CHECK, "auto", NOT_AS_EXPECTED),
        (SCAN, "auto", NOT_AS_EXPECTED),
        (COMPARE, "damaged", AS_EXPECTED),
        (COMPARE, "kept", NOT_AS_EXPECTED),
    ],
)
def test_a_broken_model_is_damage_that_was_seen(tmp_path, monkeypatch, mode, expect, status):
    """In every mode; who expects damage finds it as expected."""

    def broken(*_, **__):
        raise BrokenModel("a tensor holds NaN")

    monkeypatch.setattr(RunConfig, "load", broken)
    monkeypatch.setattr("superweight.release.compare.compare", broken)
    found = judge(Job("tiny-plain", mode=mode, expect=expect, base="tiny-planted", folder=str(tmp_path)))
    assert (status, "a tensor holds NaN") == (found.status, found.reason)


@pytest.mark.parametrize("mode", [CHECK, SCAN, COMPARE])
def test_what_cannot_be_looked_at_is_never_damage(tmp_path, mode):
    """A name that leads nowhere is no finding about a model."""
    found = judge(Job("./nowhere", mode=mode, base="tiny-planted", folder=str(tmp_path)))
    assert CANNOT_JUDGE == found.status
    assert "no model './nowhere'" in found.reason


def test_a_streamed_scan_is_held_to_what_is_published(tmp_path, monkeypatch):
    """Block by block, from files here or at an address, which is never downloaded; a pruned one differs."""
    found = judge(Job("tiny-planted", "scan", stream=True))
    assert AS_EXPECTED == found.status
    assert found.reason.startswith("as published by constructed; seen through block 3 of 4; read ")
    release = copy_checkpoint("tiny-planted", tmp_path / "release")
    rewrite(release, lambda tensors: tensors[DOWN][41].__setitem__(23, 0.0))
    pruned = judge(Job(f"tiny-planted={release}", "scan", stream=True))
    assert NOT_AS_EXPECTED == pruned.status
    assert "[1, 41, 23]" in pruned.unexpected[0]
    monkeypatch.setenv("no_proxy", "*")
    with serving(folder(copy_checkpoint("tiny-planted", tmp_path / "served"))) as server:
        job = Job(server.address, "scan")
        row = with_judgement(Row(job.id, job.model, job.mode, CANNOT_JUDGE, ""), judge(job))
    assert (AS_EXPECTED, (Place("[1, 41, 23]", 4.0),), 4) == (row.status, row.super_weights, row.blocks)
    assert ("LlamaForCausalLM", 41, 0, 1) == (
        row.architecture,
        row.activation.channel,
        row.activation.token,
        row.activation.onset,
    )


@pytest.mark.slow
def test_a_scan_is_held_to_what_is_published(tmp_path):
    """The planted place is found; another one that an index names is not."""
    found = judge(Job("tiny-planted", "scan", **NOWHERE))
    assert (AS_EXPECTED, "as published by constructed") == (found.status, found.reason)
    assert found.document["observed"]["effect"]["verdict"].startswith("carries the model")
    model = copy_checkpoint("tiny-planted", tmp_path / "model")
    source = tmp_path / "index.json"
    source.write_bytes(index(named(str(model), super_weights=(Place("[1, 41, 24]", 4.0),))))
    with also_reading([str(source)]):
        other = judge(Job(str(model), "scan", **NOWHERE))
    assert NOT_AS_EXPECTED == other.status
    assert "[1, 41, 24] is published but not found" in other.reason


@pytest.mark.slow
def test_a_release_is_compared_and_what_is_broken_is_damage(tmp_path):
    """Zeroed, truncated, absent: damaged, broken, not to be judged."""
    release = copy_checkpoint("tiny-planted", tmp_path / "release")
    rewrite(release, lambda tensors: tensors[DOWN][41].__setitem__(23, 0.0))
    job = Job(str(release), "compare", "tiny-planted", "kept", **NOWHERE)
    judged = judge(job)
    assert (NOT_AS_EXPECTED, "damaged") == (judged.status, judged.verdict)
    assert "superweight compare tiny-planted" in judged.document["run"]["command"]
    weights = release / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    broken = judge(Job(str(release), "check", expect="auto", **NOWHERE))
    assert (NOT_AS_EXPECTED, "broken") == (broken.status, broken.verdict)
    absent = judge(Job(str(tmp_path / "gone"), "check", expect="auto", **NOWHERE))
    assert CANNOT_JUDGE == absent.status
