"""What a run could leave out, leave behind or hold to itself: each turns it red and says why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from superweight.claims.paper import pruning
from superweight.claims.verdict import AT_LEAST, counted
from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput, HarnessError
from superweight.core.resources import fixtures_directory
from superweight.model import loading
from superweight.pytest_plugin import snapshots
from tests.helpers.checkpoint_files import copy_checkpoint

MODEL = ("--sw-model", "tiny-planted")
PLANTED = Coordinate(1, 41, 23)


def test_a_claim_without_its_baseline_is_found(run, project):
    """Where other claims have theirs, a missing one is a gap and no first meeting."""
    Path(project.path, "baselines", "tiny-planted", "cpu-float32", "C3.json").unlink()
    result = run(*MODEL, claims="perplexity")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*there is no baseline C3.json*"])


def test_a_snapshot_that_matches_everything_is_found(run, project, monkeypatch):
    """Should syrupy's comparison say yes to all, the leaves are compared all the same."""
    path = Path(project.path, "baselines", "tiny-planted", "cpu-float32", "C3.json")
    path.write_text(path.read_text().replace('"supported"', '"refuted"', 1))
    monkeypatch.setattr(snapshots.BaselineExtension, "matches", lambda *_, **__: True)
    result = run(*MODEL, claims="perplexity")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*status: was*"])


def test_a_comparison_that_finds_no_difference_is_found(run, project, monkeypatch):
    """And should ours find nothing, syrupy's word and the status stand."""
    path = Path(project.path, "baselines", "tiny-planted", "cpu-float32", "C3.json")
    path.write_text(path.read_text().replace('"supported"', '"refuted"', 1))
    monkeypatch.setattr("superweight.claims.expectations.differences", lambda *_: [])
    run(*MODEL, claims="perplexity").assert_outcomes(failed=1)


@pytest.mark.parametrize(
    "options",
    [
        ("-k", "no_such_claim"),
        ("--deselect", "test_paper.py"),
        ("--ignore", "test_paper.py"),
        ("--ignore", "test_paper.py", "-n1"),
        ("-m", "slow and not slow"),
    ],
    ids=" ".join,
)
def test_a_run_whose_claims_are_all_deselected_is_red(project, options):
    """A model was named and nothing was judged: other tests that pass make that no success."""
    project.makepyfile(test_other="def test_nothing_of_it():\n    pass\n")
    result = project.runpytest_inprocess("-p", "no:cacheprovider", *MODEL, *options)
    assert pytest.ExitCode.NO_TESTS_COLLECTED == result.ret
    result.stdout.fnmatch_lines(["*no test ran on tiny-planted: nothing was judged*"])


def test_a_run_that_never_looks_at_the_model_is_red(project):
    """Other tests pass; the model that was named was not looked at, and the run says so."""
    project.makepyfile(test_other="def test_nothing_of_it():\n    pass\n")
    result = project.runpytest_inprocess("-p", "no:cacheprovider", *MODEL, "test_other.py")
    assert pytest.ExitCode.NO_TESTS_COLLECTED == result.ret
    result.stdout.fnmatch_lines(["*no test ran on tiny-planted: nothing was judged*"])


LEAKS = {
    "an edit": """
        from superweight.model.edits import Prune, edited
        from superweight.core.coordinates import Coordinate
        KEPT = []
        def test_leaves_it(subject):
            KEPT.append(edited(subject, [Prune(Coordinate(1, 41, 23))]))
            KEPT[0].__enter__()
    """,
    "a hook": """
        def test_leaves_it(subject):
            subject.architecture.blocks[0].register_forward_hook(lambda *_: None)
    """,
    "a number": """
        def test_leaves_it(subject, evidence):
            assert evidence.scan.coordinates
            subject.model.model.layers[1].mlp.down_proj.weight.data[41, 23] = 1.0
    """,
}


@pytest.mark.parametrize(
    ("leak", "said"),
    [
        ("an edit", "is still in force on tiny-planted"),
        ("a hook", "carries other hooks than before"),
        ("a number", "super weight [[]1, 41, 23[]] of tiny-planted is 1, not 4"),
    ],
)
def test_what_a_test_leaves_on_the_model_is_found(project, leak, said):
    """The test that left it is the one that is red."""
    project.makepyfile(test_leak=LEAKS[leak])
    result = project.runpytest_inprocess("-p", "no:cacheprovider", *MODEL, "test_leak.py")
    assert 1 == result.ret
    result.stdout.fnmatch_lines([f"*{said}*"])


def test_a_base_that_is_the_model_itself_is_refused(run):
    """Held to itself, any model passes."""
    result = run(*MODEL, "--sw-base", "tiny-planted")
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    assert "are the same files; compared with itself any model passes" in (
        result.stdout.str() + result.stderr.str()
    )


@pytest.mark.parametrize("words", [("check", "tiny-planted", "--base"), ("compare", "tiny-planted")])
def test_a_command_holds_no_model_to_itself(superweight, tmp_path, words):
    """Under whatever name: here through a link to its directory."""
    link = tmp_path / "another-name"
    link.symlink_to(fixtures_directory() / "checkpoints" / "tiny-planted")
    result = superweight(*words, str(link))
    assert 4 == result.exit_code
    assert "are the same files; compared with itself any model passes" in result.stderr


def test_a_model_silently_in_another_dtype_is_refused(run, monkeypatch):
    """Its verdicts would be held to nobody's baseline."""
    monkeypatch.setattr(loading, "refuse_gaps", lambda model, *_: model.to(torch.float64))
    result = run(*MODEL, claims="known_place")
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    assert "asked for in torch.float32 and came up in torch.float64" in (
        result.stdout.str() + result.stderr.str()
    )


def test_a_model_silently_on_another_device_is_refused(run, monkeypatch):
    """A GPU is asked for, and what loads the model leaves it on the CPU."""
    monkeypatch.setattr(loading, "_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(loading, "_layout", lambda *_, **__: {"device_map": None})
    monkeypatch.setattr(loading, "make_deterministic", lambda: None)
    result = run(*MODEL, claims="known_place")
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    assert "asked for on cuda and lies on cpu" in result.stdout.str() + result.stderr.str()


def test_the_tokenizer_of_another_model_of_the_same_size_is_found(run, tmp_path):
    """Every id is one that the model knows, and none is the right one: the text is no text to it."""
    target = tmp_path / "muddled"
    copy_checkpoint("tiny-planted", target)
    tokenizer = json.loads((target / "tokenizer.json").read_text())
    letters = {token: number for token, number in tokenizer["model"]["vocab"].items() if number < 256}
    tokenizer["model"]["vocab"] |= dict(zip(letters, reversed(letters.values()), strict=True))
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    result = run("--sw-model", f"tiny-planted={target}", claims="perplexity")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*evidence.intact_perplexity: was *"])


def test_the_tokenizer_of_another_model_is_refused(planted):
    """A token that the model has no embedding for is named before it is looked up."""
    other = replace(planted, tokenizer=lambda text: {"input_ids": [1, 49_151]})
    with pytest.raises(BadInput, match="gives the token 49151, but the model has only"):
        other.encode("text")


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), float("-inf"), -1.0])
def test_a_claims_threshold_that_would_pass_anything_is_found(run, monkeypatch, threshold):
    """No number, no bound, or below what a ratio can be: the claim that was given it is red."""
    monkeypatch.setattr(pruning, "PERPLEXITY_RATIO", threshold)
    result = run(*MODEL, claims="perplexity")
    result.assert_outcomes(failed=1)
    said = "threshold: was 10.0, is -1.0" if threshold == -1 else "would pass everything"
    result.stdout.fnmatch_lines([f"*{said}*"])


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), float("-inf")])
def test_a_threshold_that_passes_everything_is_refused(threshold):
    """Every comparison with NaN or an infinity goes one way."""
    with pytest.raises(HarnessError, match="would pass everything"):
        counted("count", 1, threshold, AT_LEAST)


@pytest.mark.parametrize(
    "text", ["", "\n \n", "a", "aaaa " * 3], ids=["empty", "blank", "one token", "short"]
)
def test_a_corpus_that_shows_nothing_is_refused(run, tmp_path, text):
    """Nothing, or too little to cut into windows, is bad input before anything is measured."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(text)
    result = run(*MODEL, "--sw-corpus", str(corpus), claims="perplexity")
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    assert str(corpus) in result.stdout.str() + result.stderr.str()


def test_controls_equal_to_the_treatment_are_found(run, monkeypatch):
    """Controls that prune the super weight do all of its damage, and the verdict changes."""
    chosen = lambda *_: [PLANTED]  # noqa: E731  # three names for one stand-in
    for name in ("largest_of_matrix", "largest_of_each_matrix", "random_of_same_matrices"):
        monkeypatch.setattr(f"superweight.measurement.conditions.{name}", chosen)
    assert 1 == run(*MODEL, claims="other_outliers").ret


def test_an_interval_of_no_width_is_found(run, monkeypatch):
    """A spread that is gone differs from the baseline's."""
    from superweight.core import statistics

    def certain(windows, statistic=None, **_):
        means = windows.reshape(len(windows), -1).mean(axis=0)[None]
        return statistics.exactly(float((means[:, 0] if statistic is None else statistic(means))[0]))

    monkeypatch.setattr("superweight.claims.paper.pruning.jackknife", certain)
    run(*MODEL, claims="perplexity").assert_outcomes(failed=1)


def test_a_scale_that_does_nothing_is_found(run, monkeypatch):
    """Riding conditions are probed on every seat; a scale that is skipped is named."""
    monkeypatch.setattr("superweight.measurement.batched_ablation._rescale", lambda *_: lambda *_: None)
    result = run(*MODEL, claims="perplexity")
    assert 1 == result.ret
    result.stdout.fnmatch_lines(["*computes with * where 0 was meant*"])


@pytest.mark.parametrize("files", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_checkpoint_that_lacks_a_file_is_refused(run, tmp_path, files):
    """One line, exit code 4, with the place."""
    target = tmp_path / "lacking"
    copy_checkpoint("tiny-planted", target)
    (target / files).unlink()
    result = run("--sw-model", f"tiny-planted={target}", claims="known_place")
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    assert str(target) in result.stdout.str() + result.stderr.str()
