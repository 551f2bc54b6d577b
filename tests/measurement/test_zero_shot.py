"""Zero-shot accuracy through lm-evaluation-harness itself, on tasks that need no data from anywhere."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from superweight.checkpoints.registry import resolve
from superweight.claims.evidence import Evidence
from superweight.claims.paper import zero_shot as claim
from superweight.cli.accuracy_table import accuracy_lines
from superweight.cli.main import main
from superweight.core.resources import fixtures_directory
from superweight.engines import in_transformers
from superweight.measurement.zero_shot import Accuracy, accuracies, read_tasks
from superweight.model.edits import Prune, active_edits, edited
from superweight.model.loading import load

pytest.importorskip("lm_eval", reason="needs the extra eval")

OWN = ("superweight_cloze", "superweight_choice")

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Nothing may be asked of the hub: these are read on use by the libraries that would ask."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def tasks():
    return read_tasks(OWN, 8)


def items(name):
    lines = (fixtures_directory() / "tasks" / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_there_are_enough_items_and_no_two_alike():
    """At least 60 of each kind; the right ending stands first and second equally often."""
    cloze, choice = items("cloze.jsonl"), items("choice.jsonl")
    assert min(len(cloze), len(choice)) >= 60
    assert len(cloze) == len({item["context"] for item in cloze})
    assert len(choice) == len({item["context"] for item in choice})
    assert all(item["target"] and not item["context"].endswith(item["target"]) for item in cloze)
    assert all(2 == len(set(item["choices"])) for item in choice)
    assert 0.5 == np.mean([item["label"] for item in choice])


def test_the_library_asks_the_subject_in_memory(planted, tasks):
    """Its own scoring of every item: two choices are guessed by half, a written word by nobody."""
    before = planted.tokenizer.pad_token
    found = accuracies(planted, tasks)
    assert set(OWN) == set(found)
    assert (0.0, 0.5) == tuple(found[name].guessing for name in OWN)
    assert {8} == {len(task.right) for task in found.values()}
    choice = found["superweight_choice"]
    assert choice.right.std(ddof=1) / np.sqrt(8) == pytest.approx(choice.standard_error)
    assert before == planted.tokenizer.pad_token


def test_accuracy_is_what_the_likelihoods_say(planted, tasks):
    """The likelier of two endings, summed over its tokens by our own forward pass, is the one chosen."""
    import torch

    def likelihood(context, ending):
        ids = torch.tensor([planted.encode(f"{context} {ending}")])
        length = len(planted.encode(context))
        with torch.no_grad():
            logs = planted.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return float(logs.gather(-1, ids[0, 1:, None])[length - 1 :].sum())

    expected = [
        float(
            int(np.argmax([likelihood(item["context"], ending) for ending in item["choices"]]))
            == item["label"]
        )
        for item in items("choice.jsonl")[:8]
    ]
    assert expected == accuracies(planted, tasks)["superweight_choice"].right.tolist()


def test_edits_in_force_are_what_is_asked(planted, tasks):
    """A pruned subject answers otherwise, and the same again when it is restored."""
    (weight,) = planted.entry.coordinates
    intact = accuracies(planted, tasks)["superweight_choice"].right
    with edited(planted, [Prune(weight)]):
        pruned = accuracies(planted, tasks)["superweight_choice"].right
    assert (intact != pruned).any()
    assert (intact == accuracies(planted, tasks)["superweight_choice"].right).all()


def answering(monkeypatch, *rows):
    """Let the claim see these answers, intact, pruned and restored."""
    answers = iter(rows)

    def give(subject, tasks):
        right = np.array(next(answers), dtype=float)
        return {"task": Accuracy("task", right, 0.25, 0.1)}

    monkeypatch.setattr(in_transformers, "accuracies", give)


@pytest.mark.parametrize(
    ("pruned", "restored", "status"),
    [
        ([1, 0, 0, 0] * 10, [1, 1, 1, 0] * 10, "supported"),
        ([1, 1, 1, 0] * 10, [1, 1, 1, 0] * 10, "refuted"),
        ([1, 0, 0, 0] * 10, [1, 1, 1, 1] + [1, 1, 1, 0] * 9, "refuted"),
        ([1, 0, 0, 0] * 10, [1, 1, 0, 0] + [1, 1, 1, 0] * 9, "refuted"),
    ],
    ids=["falls to guessing", "nothing is lost", "better than it was", "worse than it was"],
)
def test_the_claim_follows_the_answers(planted, monkeypatch, pruned, restored, status):
    """Supported where most of what stands above guessing is lost and every answer comes back."""
    answering(monkeypatch, [1, 1, 1, 0] * 10, pruned, restored)
    verdict = claim.judge(Evidence(planted, "builtin"), None)
    assert status == verdict.status
    assert () == active_edits(planted)


def test_the_share_lost_is_of_what_stands_above_guessing(planted, monkeypatch):
    """Three quarters right where a quarter is guessed; a quarter of the answers lost is half of it."""
    intact = [1, 1, 1, 0] * 10
    answering(monkeypatch, intact, [1, 1, 0, 0] * 10, intact)
    verdict = claim.judge(Evidence(planted, "builtin"), None)
    share = verdict.criteria[0]
    assert 0.5 == pytest.approx(share.statistic.value)
    assert 0.05 == pytest.approx(share.statistic.within)
    assert share.interval.low < 0.5 < share.interval.high
    row = verdict.evidence["accuracy"]["task"]["pruned"]
    assert (0.5, 0.02) == (row["accuracy"].value, pytest.approx(row["accuracy"].within))
    assert (0.1, 0.01) == (row["standard_error"].value, pytest.approx(row["standard_error"].within))


def test_a_model_that_guesses_exactly_has_nothing_to_lose_either(planted, monkeypatch):
    """Nothing written right, and nothing to be guessed: no share of nothing is taken."""
    nothing = {"task": Accuracy("task", np.zeros(40), 0.0, 0.0)}
    monkeypatch.setattr(in_transformers, "accuracies", lambda *_: nothing)
    assert "not applicable" == claim.judge(Evidence(planted, "builtin"), None).status


def test_a_model_that_guesses_has_nothing_to_lose(planted, monkeypatch):
    """Not applicable, with the accuracies as evidence all the same."""
    answering(monkeypatch, *[[1, 0, 0, 0] * 10] * 3)
    verdict = claim.judge(Evidence(planted, "builtin"), None)
    assert "not applicable" == verdict.status
    assert (
        "| task | 40 | 0.25 | 0.250 ± 0.100 | 0.250 ± 0.100 | 0.250 ± 0.100 |" == accuracy_lines(verdict)[-1]
    )


@pytest.mark.parametrize(
    ("names", "limit", "complaint"),
    [
        (["superweight_none"], None, "knows no task 'superweight_none'"),
        (OWN, 1, "--limit 1 is too few"),
        (["piqa"], 5, "task piqa: its data is not to be had"),
        ([], None, "no task is named"),
    ],
    ids=["unknown", "limit", "no data", "none"],
)
def test_tasks_that_cannot_be_asked_are_refused(names, limit, complaint, refusal):
    """One line names the task and what to do."""
    assert complaint in refusal(read_tasks, names, limit)


def test_a_missing_library_is_named(refusal, monkeypatch):
    """The extra is optional, and says so when it is asked for."""
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    assert "pip install 'superweight-harness[eval]'" in refusal(read_tasks, OWN)


def test_the_command_prints_accuracies_with_standard_errors():
    """`check --tasks` adds C15 to the claims and a table of the three conditions."""
    result = CliRunner().invoke(
        main, ["check", "tiny-planted", "--device", "cpu", "--tasks", ",".join(OWN), "--limit", "5"]
    )
    assert 0 == result.exit_code, result.output
    assert "C15" in result.stdout
    assert "| task | items | guessing | intact | pruned | restored |" in result.stdout
    assert "| superweight_cloze | 5 | 0.00 | 0.000 ± 0.000 |" in result.stdout


def test_tasks_are_refused_before_a_model_is_loaded():
    """A typing error costs no minutes: exit 4, one line."""
    result = CliRunner().invoke(main, ["check", "tiny-planted", "--tasks", "superweight_clozes"])
    assert 4 == result.exit_code
    assert "knows no task" in result.stderr
    assert "loading" not in result.stderr


@pytest.mark.slow
@pytest.mark.checkpoint
def test_accuracy_of_the_real_model_falls_to_guessing():
    """16 items of each task: what the model knows above guessing is gone with its set, and back after."""
    subject = load(resolve("smollm2-135m-instruct-q4_1"), device="cpu")
    verdict = claim.judge(Evidence(subject, "builtin"), read_tasks(OWN, 16))
    assert "supported" == verdict.status, verdict.reason
