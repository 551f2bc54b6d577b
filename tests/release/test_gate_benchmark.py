"""The benchmark of the gate: what it calls true, what it calls right, and what its table says."""

from __future__ import annotations

import math

import pytest

from benchmarks import gate, gate_table
from benchmarks.gate_damaged import BROKEN
from benchmarks.gate_sound import SOUND
from benchmarks.gate_truth import ratios, verdict

CHAT = {"answers": ["Paris."], "ended": [True]}
BASE = {"nll": {"short": 3.0, "long": 2.0}, "reads text as it stands": True, "chat": CHAT}


def release(**changes):
    return BASE | changes


def worse_by(factor):
    return {"short": 3.0, "long": 2.0 + math.log(factor)}


def test_a_ratio_is_that_of_perplexities_and_nan_is_none():
    """e to the difference of the losses, kind by kind; what is no number is infinitely worse."""
    assert {"short": 1.0, "long": pytest.approx(1.3)} == ratios(BASE, release(nll=worse_by(1.3)))
    assert math.inf == ratios(BASE, release(nll={"short": math.nan, "long": 2.0}))["short"]


@pytest.mark.parametrize(
    ("found", "truth"),
    [
        (release(), "sound"),
        (release(nll=worse_by(1.09)), "sound"),
        (release(nll=worse_by(1.11)), "worse"),
        (release(nll=worse_by(1.51)), "broken"),
        (release(nll={"short": math.nan, "long": 2.0}), "broken"),
        ({"fault": "does not load"}, "broken"),
        (release(**{"finite in float16": False}), "broken"),
        (release(**{"reads text as it stands": False}), "broken"),
        (release(chat={"fault": "TemplateError"}), "broken"),
        (release(chat={"answers": ["Paris. Paris. Paris."], "ended": [False]}), "broken"),
        (release(chat={"answers": ["<|im_start|>assistant\nParis."], "ended": [True]}), "broken"),
    ],
)
def test_truth_is_the_worst_of_what_was_measured(found, truth):
    """Text of every kind, the release's own dtype, its tokenizer, its chat."""
    assert truth == verdict(BASE, found)


@pytest.mark.parametrize(
    ("truth", "said", "judgement"),
    [
        ("sound", "kept", "right"),
        ("sound", "kept, degraded", "right"),
        ("sound", "damaged", "false alarm"),
        ("broken", "damaged", "right"),
        ("broken", "kept", "missed"),
        ("broken", "kept, degraded", "missed"),
        ("worse", "kept", "missed"),
        ("worse", "kept, degraded", "right"),
        ("worse", "damaged", "right"),
        ("broken", "cannot be judged: changed", "not judged"),
        ("sound", "-", "not judged"),
    ],
)
def test_a_verdict_is_right_missed_or_a_false_alarm(truth, said, judgement):
    """What is worse must be told; what is broken must be damaged; what cannot be judged is neither."""
    assert judgement == gate_table.judgement(truth, said)


def row(name, *checks, **truth):
    fields = ("depth", "check", "status", "reason")
    listed = [dict(zip(fields, check, strict=True)) | {"excess": "inf", "figures": {}} for check in checks]
    return {"name": name, "truth": release(**truth), "judged": {"checks": listed}}


def test_the_table_counts_by_depth_and_marks_what_is_wrong():
    """One sound release that the files call damaged, one broken one that only they find."""
    rows = [
        row("fine", ("static", "structure", "damaged", ""), ("quality", "perplexity", "kept", "")),
        row("bad", ("static", "x", "damaged", ""), ("quality", "perplexity", "kept", ""), nll=worse_by(9)),
    ]
    lines = gate_table.as_markdown({"truth": BASE}, rows, "today").splitlines()
    assert "Measured on today, 2 releases: truth calls 1 sound, 1 broken and 0 worse." == lines[0]
    assert "| static | 0 | 1 | 1 | 0 | 0 | 0 | 0 |" in lines
    assert "| quality | 1 | 0 | 0 | 1 | 0 | 0 | 0 |" in lines
    assert "| fine | sound | x1 | **damaged** | cannot be judged | kept | **damaged** |" in lines
    assert "| bad | broken | x9 | damaged | cannot be judged | **kept** | damaged |" in lines


def test_there_are_enough_releases_and_each_has_a_file_of_its_own():
    """At least 25 that are meant to be sound, and 25 to be broken."""
    assert len(SOUND) >= 25
    assert len(BROKEN) >= 25
    names = [name for _, name, _ in gate.releases()]
    assert len(names) == len({gate.kept(name) for name in names})
