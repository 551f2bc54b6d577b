"""What each pytest option does, as a user sees it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
import torch

from superweight.checkpoints.registry import load_registry
from superweight.model import loading
from superweight.report.document import schema
from tests.helpers.checkpoint_files import copy_checkpoint

PLACE = "known_place"


def test_sw_model_selects_one_model(run):
    """Only the named model runs, and nothing shows as deselected."""
    result = run("--sw-model", "tiny-planted")
    result.assert_outcomes(passed=14)
    result.stdout.fnmatch_lines(["super weights: tiny-planted", "*C9  not applicable*baseline*"])


def test_the_header_says_what_verdicts_are_held_to(run, tmp_path):
    """Device, dtype, corpus, expectations and baselines, as they were asked for."""
    asked = ("--sw-model", "tiny-planted", "--collect-only", "-q", "-v")
    run(*asked).stdout.fnmatch_lines(["super weights: expectations auto, baselines beside the tests"])
    given = ("--sw-device", "cpu", "--sw-dtype", "bfloat16", "--sw-base", "tiny-plain")
    run(*asked, *given, "--sw-baselines", str(tmp_path)).stdout.fnmatch_lines(
        [
            "super weights: device cpu, dtype bfloat16, corpus builtin",
            f"super weights: expectations the base tiny-plain, baselines {tmp_path}",
        ]
    )


def test_sw_model_may_be_repeated(run):
    """Each named model runs every test."""
    run("--sw-model", "tiny-planted", "--sw-model", "tiny-plain", claims=PLACE).assert_outcomes(passed=2)


def test_sw_model_takes_a_registry_name_with_files_elsewhere(run, tmp_path):
    """NAME=PATH is held to the name's baseline."""
    copy = tmp_path / "copy"
    copy_checkpoint("tiny-planted", copy)
    run("--sw-model", f"tiny-planted={copy}", claims=PLACE).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("no-such-model", "no model 'no-such-model'"),
        ("tiny-planted=", "give a directory"),
        ("/no/such/dir", "no model '/no/such/dir'"),
        ("gone.gguf", "cannot read gone.gguf"),
    ],
)
def test_a_model_that_is_not_there_is_a_usage_error(run, spec, said):
    """One line says what is wrong; the exit code is 4."""
    result = run("--sw-model", spec, claims=PLACE)
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    assert said in result.stdout.str() + result.stderr.str()


def test_a_model_met_for_the_first_time_is_characterised(run, tmp_path, monkeypatch):
    """Without base, baseline and registry the run passes and says that it compared nothing."""
    copy = tmp_path / "new"
    copy_checkpoint("tiny-planted", copy)
    result = run("--sw-model", str(copy), claims=PLACE)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*met for the first time: nothing was compared*"])
    monkeypatch.setenv("CI", "true")
    result = run("--sw-model", str(copy), claims=PLACE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*CI is set, and there is nothing to compare with*"])


def test_sw_base_expects_the_verdicts_of_the_base(run):
    """The plain twin does not do what the planted model does; the tuned one does."""
    same = run("--sw-model", "tiny-tuned", "--sw-base", "tiny-planted", claims="known_place or perplexity")
    same.assert_outcomes(passed=2)
    other = run("--sw-model", "tiny-plain", "--sw-base", "tiny-planted", claims="known_place or perplexity")
    other.assert_outcomes(failed=2)
    other.stdout.fnmatch_lines(["*the base model has supported, this model not applicable*"])
    other.stdout.no_fnmatch_line("*not judged*")


def test_sw_expect_paper_holds_a_model_to_the_paper(run):
    """The planted model does what the paper says; its plain twin has nothing and fails."""
    run("--sw-model", "tiny-planted", "--sw-expect", "paper").assert_outcomes(passed=14)
    run("--sw-model", "tiny-plain", "--sw-expect", "paper", claims=PLACE).assert_outcomes(failed=1)


def test_sw_dtype_has_baselines_of_its_own(run):
    """bfloat16 is never held to float32's numbers; the registry is asked instead."""
    result = run("--sw-model", "tiny-planted", "--sw-dtype", "bfloat16", claims=PLACE)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*(expected: supported, registry)*"])


def test_another_device_has_baselines_of_its_own(run, project, monkeypatch):
    """What a CPU measured never stands in for a GPU: locally the registry is asked, a gate fails."""
    original = loading._provenance
    monkeypatch.setattr(
        loading, "_provenance", lambda *arguments: replace(original(*arguments), device="cuda")
    )
    result = run("--sw-model", "tiny-planted", claims=PLACE)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*(expected: supported, registry)*"])
    monkeypatch.setenv("CI", "true")
    result = run("--sw-model", "tiny-planted", claims=PLACE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*there is no baseline C1.json for cuda-float32*"])
    monkeypatch.delenv("CI")
    run("--sw-model", "tiny-planted", "--snapshot-update", claims=PLACE).assert_outcomes(passed=1)
    kept = Path(project.path, "baselines", "tiny-planted")
    assert ["C1.json"] == [path.name for path in (kept / "cuda-float32").iterdir()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="asserts what happens without CUDA")
def test_sw_device_cuda_without_cuda_is_a_usage_error(run):
    """A device that is not there is refused, not replaced."""
    result = run("--sw-model", "tiny-planted", "--sw-device", "cuda", claims=PLACE)
    assert pytest.ExitCode.USAGE_ERROR == result.ret


@pytest.mark.skipif(torch.cuda.is_available(), reason="asserts what happens without CUDA")
def test_m_gpu_without_cuda_is_an_error(run):
    """Never a green run that tested nothing."""
    result = run("-m", "gpu")
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines(["*torch sees no CUDA device here*"])


def test_m_gpu_lists_the_models_of_the_paper(run):
    """Collecting needs no GPU and names every model of the registry by its id."""
    result = run("-m", "gpu", "--collect-only", "-q", claims=PLACE)
    result.stdout.fnmatch_lines([f"*known_place?{name}?" for name in load_registry()])


def test_sw_corpus_reads_a_folder(run, tmp_path):
    """Other text gives other numbers, which the baseline does not excuse."""
    for index in range(8):
        words = [f"word{index}{number}" for number in range(40)]
        (tmp_path / f"{index}.txt").write_text(" ".join(words), encoding="utf-8")
    result = run("--sw-model", "tiny-planted", "--sw-corpus", str(tmp_path), claims="perplexity")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*changed*intact_perplexity*"])


@pytest.mark.parametrize(
    "text", ["", "short", "a" * 9000, "ab" * 9000], ids=["empty", "short", "constant", "periodic"]
)
def test_a_corpus_with_nothing_to_predict_is_refused(run, tmp_path, text):
    """Empty, short, constant and periodic text are bad input."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(text, encoding="utf-8")
    result = run("--sw-model", "tiny-planted", "--sw-corpus", str(corpus), claims="perplexity")
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    assert f"corpus {corpus}" in result.stdout.str() + result.stderr.str()


@pytest.mark.usefixtures("drawn_once")
def test_sw_report_writes_json_and_a_page(run, tmp_path):
    """One model: report.json with the contract's keys, and a page."""
    run("--sw-model", "tiny-planted", "--sw-report", str(tmp_path / "out"))
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    jsonschema.validate(document, schema())
    assert {"model", "provenance", "verdicts", "observed", "sweep", "run"} == document.keys()
    assert 14 == len(document["verdicts"])
    # What each test itself took, to the millisecond: not its setup or its end, which measure nothing.
    seconds = [stage["seconds"] for stage in document["run"]["stages"]]
    assert seconds == [round(each, 3) for each in seconds]
    assert (14, True) == (len(seconds), max(seconds) > 0.02)
    keys = {"claim", "status", "expected", "statistic", "interval", "threshold", "evidence"}
    assert all(keys <= row.keys() for row in document["verdicts"])
    assert "<h1>Super weights of tiny-planted</h1>" in (tmp_path / "out" / "report.html").read_text()


def test_sw_summary_appends_a_markdown_table(run, tmp_path):
    """What was there stays; each verdict is a row under the model's name."""
    file = tmp_path / "summary.md"
    file.write_text("before\n")
    run("--sw-model", "tiny-planted", "--sw-summary", str(file), claims="known_place or perplexity")
    lines = file.read_text().splitlines()
    assert ["before", "### tiny-planted"] == lines[:2]
    assert ["C1", "C3"] == [line.split(" | ")[1] for line in lines if line.startswith("| | C")]


def test_sw_model_that_no_test_looks_at_is_said(run, pytester):
    """A run that compared nothing says how to collect what would."""
    pytester.makepyfile(test_other="def test_other(): pass")
    result = run("--sw-model", "tiny-planted", "test_other.py")
    result.stdout.fnmatch_lines(
        ["super weights: no collected test looks at --sw-model; --pyargs superweight.suite*"]
    )


@pytest.mark.usefixtures("_imported")
def test_sw_model_alone_runs_the_claims_that_ship(pytester, monkeypatch):
    """In a directory without tests, --sw-model is enough; its baselines are kept in the project."""
    monkeypatch.delenv("CI", raising=False)
    options = ("-p", "no:cacheprovider", "--sw-model", "tiny-planted", "-k", PLACE)
    pytester.runpytest_inprocess(*options, "--snapshot-update").assert_outcomes(passed=1)
    kept = pytester.path / "tests" / "claims" / "baselines" / "tiny-planted" / "cpu-float32" / "C1.json"
    assert kept.is_file()
    # Now that there is a folder of tests, the claims are asked for by name.
    assert pytest.ExitCode.NO_TESTS_COLLECTED == pytester.runpytest_inprocess(*options).ret
    result = pytester.runpytest_inprocess(*options, "--pyargs", "superweight.suite")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*(expected: supported, baseline)*"])


@pytest.mark.usefixtures("drawn_once")
@pytest.mark.parametrize(
    "workers", [(), pytest.param(("-n1", "--dist", "loadgroup"), marks=pytest.mark.slow)]
)
def test_sw_report_puts_all_models_on_one_page(project, tmp_path, workers):
    """Two models, in this process or a worker: one document, each with what was observed of it."""
    models = ("--sw-model", "tiny-planted", "--sw-model", "tiny-plain")
    claims = ("-k", f"{PLACE} or perplexity")
    options = (*workers, *models, *claims, "--sw-report", str(tmp_path / "out"))
    project.runpytest_inprocess("-p", "no:cacheprovider", *options)
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    jsonschema.validate(document, schema())
    assert {"tiny-planted", "tiny-plain"} == {part["model"] for part in document["models"]}
    assert all("magnitudes" in part["observed"] for part in document["models"])
    assert document["run"]["command"].startswith("pytest ")


# Says again, in a worker that need not load torch, what an earlier run had found.
REPLAY = """
import json
import logging
from pathlib import Path
from superweight.pytest_plugin.terminal import OBSERVED, PROPERTY
from tests.helpers.checkpoint_files import copy_checkpoint

def test_says_it_again(request):
    found = json.loads(Path({report!r}).read_text())
    logging.getLogger("superweight.measurement.evaluate").warning("it went on in halves")
    request.config.stash[OBSERVED] = {{found["model"]: {{"observed": found["observed"]}}}}
    about = {{name: found[name] for name in ("model", "provenance")}}
    for row in found["verdicts"]:
        request.node.user_properties.append((PROPERTY, json.dumps(row | about)))
"""


@pytest.mark.usefixtures("drawn_once")
def test_a_worker_hands_over_what_it_found(run, pytester, tmp_path):
    """What the controller of xdist writes is what one process writes, observations and verdicts alike."""
    alone, handed = tmp_path / "alone", tmp_path / "handed"
    run("--sw-model", "tiny-planted", "--sw-report", str(alone), claims=f"{PLACE} or perplexity")
    pytester.makepyfile(test_replay=REPLAY.format(report=str(alone / "report.json")))
    run("-n1", "--sw-report", str(handed), "test_replay.py").assert_outcomes(passed=1)
    one, other = (json.loads((folder / "report.json").read_text()) for folder in (alone, handed))
    assert [[], ["it went on in halves"]] == [part.pop("run")["notes"] for part in (one, other)]
    assert one == other
    assert 2 == len(one["verdicts"])


def test_junit_xml_carries_every_statistic(run, tmp_path):
    """Status, value, interval and threshold are properties of the test case."""
    path = tmp_path / "junit.xml"
    run("--sw-model", "tiny-planted", "--junitxml", str(path), claims="perplexity")
    found = {
        item.get("name"): item.get("value")
        for item in ElementTree.parse(path).iter("property")  # noqa: S314
    }
    assert "supported" == found["C3 status"]
    ratio, low, high = (
        float(found[f"C3 perplexity after over before{end}"]) for end in ("", " low", " high")
    )
    assert low < ratio < high
    assert "at least 10" in found["C3 perplexity after over before supported when"]


def test_update_keeps_the_baselines_of_models_that_did_not_run(run, project):
    """syrupy deletes what was not used; ours survive, whoever was deselected or not selected."""
    before = sorted(Path(project.path, "baselines").rglob("*.json"))
    run("--sw-model", "tiny-plain", "--snapshot-update", claims=PLACE).assert_outcomes(passed=1)
    assert before == sorted(Path(project.path, "baselines").rglob("*.json"))


def test_update_says_that_it_compared_nothing(run, project, tmp_path):
    """What was accepted was expected by nobody; what had not changed was held to its baseline."""
    kept, summary = Path(project.path, "baselines", "tiny-planted", "cpu-float32"), tmp_path / "summary.md"
    changed = (kept / "C3.json").read_text().replace('"supported"', '"refuted"', 1)
    (kept / "C3.json").write_text(changed)
    options = ("--sw-model", "tiny-planted", "--snapshot-update", "--sw-summary", str(summary))
    result = run(*options, claims=f"{PLACE} or perplexity")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "*C1  supported *(expected: supported, baseline)*",
            "*C3  supported *(expected: nothing, update)*",
            "*1 of 2 kept as new baselines by --snapshot-update: nothing was compared there.*",
        ]
    )
    result.stdout.no_fnmatch_line("*met for the first time*")
    assert "| C3 | supported | nothing, update |" in summary.read_text()
    assert changed != (kept / "C3.json").read_text()


def test_update_leaves_what_is_within_tolerance_untouched(run, project):
    """Only the leaf that is out of tolerance is rewritten."""
    path = Path(project.path, "baselines", "tiny-planted", "cpu-float32", "C3.json")
    stored = json.loads(path.read_text())
    near = stored["evidence"]["intact_perplexity"]["value"] * 1.001
    stored["evidence"]["intact_perplexity"]["value"] = near
    stored["evidence"]["kl_from_intact"]["value"] = 1.0
    path.write_text(json.dumps(stored))
    run("--sw-model", "tiny-planted", claims="perplexity").assert_outcomes(failed=1)
    run("--sw-model", "tiny-planted", "--snapshot-update", claims="perplexity").assert_outcomes(passed=1)
    updated = json.loads(path.read_text())
    assert near == updated["evidence"]["intact_perplexity"]["value"]
    assert 1.0 != updated["evidence"]["kl_from_intact"]["value"]
    run("--sw-model", "tiny-planted", claims="perplexity").assert_outcomes(passed=1)


def test_a_missing_baseline_fails_in_ci(run, project, monkeypatch):
    """Locally the registry stands in; a gate does not accept that."""
    shutil.rmtree(Path(project.path, "baselines", "tiny-planted"))
    run("--sw-model", "tiny-planted", claims=PLACE).assert_outcomes(passed=1)
    monkeypatch.setenv("CI", "true")
    result = run("--sw-model", "tiny-planted", claims=PLACE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*CI is set, and there is no baseline C1.json*"])


@pytest.mark.slow
def test_under_xdist_the_verdicts_are_the_same(project):
    """Two workers, one model each: all pass, and the summary has them all."""
    result = project.runpytest_subprocess(
        "-n2", "--dist", "loadgroup", "--sw-model", "tiny-planted", "--sw-model", "tiny-plain"
    )
    result.assert_outcomes(passed=28)
    result.stdout.fnmatch_lines(["*= super weights =*"])


def test_every_option_states_its_default(run):
    """The help of each option ends with its default."""
    text = " ".join(run("--help").stdout.str().split())
    for option in (
        "model",
        "base",
        "expect",
        "device",
        "dtype",
        "corpus",
        "report",
        "summary",
        "baselines",
        "trust",
    ):
        assert "Default:" in text.split(f"--sw-{option}", 1)[1].split("--sw-")[0]


def test_sw_budget_skips_what_does_not_fit(run, project, monkeypatch):
    """With what it would need, and without a baseline; what fits is judged. Under CI it fails."""
    result = run("--sw-model", "tiny-planted", "--sw-budget", "0.001s", "-rs")
    result.assert_outcomes(passed=2, skipped=12)
    result.stdout.fnmatch_lines(["*C3 on tiny-planted: not measured: it needs*of the budget are left*"])
    kept = sorted(Path(project.path, "baselines").rglob("C*.json"))
    run("--sw-model", "tiny-planted", "--sw-budget", "0.001s", "--snapshot-update")
    assert kept == sorted(Path(project.path, "baselines").rglob("C*.json"))
    run("--sw-model", "tiny-planted", "--sw-budget", "10min", claims=PLACE).assert_outcomes(passed=1)
    monkeypatch.setenv("CI", "true")
    run("--sw-model", "tiny-planted", "--sw-budget", "0.001s").assert_outcomes(passed=2, failed=12)


def test_sw_budget_takes_a_length_of_time(run):
    """What is none is a usage error."""
    result = run("--sw-model", "tiny-planted", "--sw-budget", "soon", claims=PLACE)
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines(["*'soon' is no length of time*"])


@pytest.mark.parametrize(
    "option", ["--sw-base-engine=llama.cpp", "--sw-base=tiny-planted=", "--sw-registry=absent.json"]
)
def test_an_option_is_read_where_no_model_is_named(pytester, option):
    """One that cannot be right ends the run in one line, although no --sw-model is given."""
    pytester.makepyfile("def test_nothing():\n    pass\n")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", option)
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    assert "passed" not in result.stdout.str()


def test_a_project_that_names_no_model_does_not_wait_for_what_reads_them(pytester):
    """Neither the readers of files nor numpy is imported beside its own tests."""
    pytester.makepyfile(
        "import sys\n\n"
        "def test_nothing():\n"
        "    assert not {'numpy', 'superweight.checkpoints.sources'} & {*sys.modules}\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    finished = subprocess.run(command, cwd=pytester.path, capture_output=True, text=True, check=False)
    assert 0 == finished.returncode, finished.stdout
