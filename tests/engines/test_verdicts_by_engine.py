"""Verdicts and comparisons in llama.cpp, by command, plugin and files, on the tiny planted model."""

from __future__ import annotations

import json
import signal

import gguf
import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

import superweight as sw
from superweight.checkpoints.model_ref import parse_model
from superweight.claims.catalogue import CLAIMS
from superweight.claims.paper import zero_shot
from superweight.claims.run_config import RunConfig
from superweight.cli.main import main
from superweight.core.errors import BadInput
from superweight.engines.engine import ENGINES, LLAMA_CPP, TRANSFORMERS
from superweight.engines.llama_cpp import process
from superweight.measurement.corpus import documents
from superweight.pytest_plugin.models import base_model, engine_loader
from superweight.release.result import DAMAGED, KEPT, QUALITY
from superweight.report.document import schema
from tests.helpers.planted_gguf import tiny_tensors, write_tiny_gguf

pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install '.[llamacpp]'")

# Its files and its base are made once, by one worker.
pytestmark = pytest.mark.xdist_group("engines")

OF_PREDICTIONS = {"C3", "C4", "C9", "C10", "C11"}
PLANTED = "blk.1.ffn_down.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def base(folder):
    return write_tiny_gguf(folder / "base.gguf", kind="F16")


@pytest.fixture(scope="module")
def corpus(folder):
    """A little text, of two dozen windows: what is measured on it takes no time."""
    path = folder / "corpus.txt"
    path.write_text("\n".join(documents("builtin"))[:1150])
    return str(path)


@pytest.fixture(scope="module")
def command(corpus):
    """Run a command of the harness in llama.cpp; that of a model met for the first time is no gap."""
    options = ("--engine", LLAMA_CPP, "--device", "cpu", "--corpus", corpus)
    return lambda *words: CliRunner().invoke(main, [*map(str, words), *options], env={"CI": ""})


@pytest.fixture(scope="module")
def checked(base, folder, command):
    """The report of a whole check in llama.cpp."""
    written = folder / "report.json"
    result = command("check", base, "--json", written)
    assert 0 == result.exit_code, result.output
    return result.output, json.loads(written.read_text())


def destroyed():
    """Return the planted matrix with the block of 32 that holds the super weight set to zero."""
    numbers = tiny_tensors()[PLANTED]
    numbers[41, 0:32] = 0
    return {PLANTED: numbers}


def test_claims_of_predictions_are_judged_in_the_engine(checked):
    """Those of the stream stay with the pass of transformers, and every verdict says which."""
    output, document = checked
    engines = {row["claim"]: row["engine"] for row in document["verdicts"]}
    assert OF_PREDICTIONS == {claim for claim, engine in engines.items() if engine == LLAMA_CPP}
    assert {claim.id for claim in CLAIMS} == set(engines)
    assert OF_PREDICTIONS == {claim.id for claim in CLAIMS if claim.of_predictions}
    assert zero_shot.CLAIM.of_predictions
    assert "│ C3    │ llama.cpp" in output
    jsonschema.validate(document, schema())


def test_the_planted_model_has_the_same_verdicts_in_both_engines(checked, planted_outcomes):
    """What was planted is found and carries the model, whoever runs it."""
    statuses = {row["claim"]: row["status"] for row in checked[1]["verdicts"]}
    assert planted_outcomes == {claim: statuses[claim] for claim in planted_outcomes}


@pytest.fixture(scope="module")
def planted_outcomes():
    """The statuses of the same model in transformers, by the registry's own word."""
    expected = parse_model("tiny-planted").entry.expect
    return {claim: status for claim, status in expected.items() if claim in OF_PREDICTIONS}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_destroyed_block_is_damage_in_both_engines(base, folder, corpus, engine):
    """The block of the super weight gone, the release is damaged, whoever runs it."""
    spoilt = write_tiny_gguf(folder / "spoilt.gguf", kind="Q8_0", changed=destroyed())
    result = compared(base, spoilt, engine, corpus=corpus)
    assert DAMAGED == result.verdict
    perplexity = next(check for check in result.checks if check.name == "perplexity")
    assert (QUALITY, DAMAGED) == (perplexity.depth, perplexity.status)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sound_build_is_kept_in_both_engines(base, folder, corpus, engine):
    """Eight bits keep the tiny model, whoever runs it."""
    sound = write_tiny_gguf(folder / "sound.gguf", kind="Q8_0")
    result = compared(base, sound, engine, corpus=corpus)
    assert KEPT == result.verdict
    assert (engine, engine) == result.engines
    assert ("engines" in result.as_dict()) is (engine == LLAMA_CPP)


def compared(base, release, engine, **options):
    return sw.compare(str(base), str(release), engine=engine, **options)


def test_a_base_of_safetensors_stays_in_transformers(folder, corpus):
    """The release runs in llama.cpp, and what it is held to runs where it can."""
    release = write_tiny_gguf(folder / "release.gguf")
    result = compared("tiny-planted", release, LLAMA_CPP, corpus=corpus)
    assert (KEPT, (TRANSFORMERS, LLAMA_CPP)) == (result.verdict, result.engines)
    assert {"base": TRANSFORMERS, "release": LLAMA_CPP} == result.as_dict()["engines"]
    assert "the base's in transformers, the release's in llama.cpp" in str(result)


def test_the_engine_of_the_base_may_be_named(base, folder):
    """A base that both could run stays in transformers where that is asked for."""
    config = RunConfig(engine=LLAMA_CPP, base_engine=TRANSFORMERS)
    assert TRANSFORMERS == config.for_base(parse_model(str(base))).engine
    assert LLAMA_CPP == RunConfig(engine=LLAMA_CPP).for_base(parse_model(str(base))).engine


def test_what_llama_cpp_refuses_cannot_be_judged(base, folder, command):
    """Exit code 3: nothing was seen of the model. The depths that transformers reaches are reached."""
    path = write_tiny_gguf(folder / "refused.gguf", kind="F16", splitter="nonesuch")
    check = command("check", path)
    assert 3 == check.exit_code, check.output
    assert "cannot be judged here: llama.cpp refuses to load refused.gguf: " in check.output
    both = command("compare", base, path)
    assert 3 == both.exit_code, both.output
    assert "quality not reached" in both.output
    assert "kept              activations" in both.output


def test_a_crash_in_the_middle_cannot_be_judged(base, command, monkeypatch):
    """The native code dies as it predicts: one line, exit code 3."""
    asked = process.WorkerProcess.ask

    def dying(self, do, **request):
        if do == "predict":
            self._process.send_signal(signal.SIGSEGV)
        return asked(self, do, **request)

    monkeypatch.setattr(process.WorkerProcess, "ask", dying)
    result = command("check", base)
    assert 3 == result.exit_code, result.output
    assert "llama.cpp died (SIGSEGV) when asked to predict base.gguf" in result.output


@pytest.mark.parametrize("word", ["check", "compare"])
def test_without_the_library_one_line_names_the_extra(base, command, monkeypatch, word):
    """Exit code 4, before a model is loaded."""
    monkeypatch.setattr(process, "find_spec", lambda name: None)
    result = command(word, *(["tiny-planted"] if word == "compare" else []), base)
    assert 4 == result.exit_code
    assert "needs xllamacpp: pip install 'superweight-harness[llamacpp]'" in result.output
    assert "loading" not in result.output


def test_a_model_that_is_no_gguf_is_bad_input(command):
    """llama.cpp runs no safetensors."""
    result = command("check", "tiny-planted")
    assert 4 == result.exit_code
    assert "runs GGUF files, and tiny-planted is none" in result.output


def test_python_refuses_what_the_engine_cannot_run():
    """Before anything is loaded, as the command does."""
    with pytest.raises(BadInput, match="runs GGUF files, and tiny-planted is none"):
        sw.check("tiny-planted", engine=LLAMA_CPP)
    with pytest.raises(BadInput, match=r"engine 'vllm' is none of transformers, llama\.cpp"):
        sw.check("tiny-planted", engine="vllm")


@pytest.mark.slow
def test_python_judges_in_the_engine(base, corpus, checked):
    """The verdicts are those of the command, and each says where it was judged."""
    result = sw.check(str(base), corpus=corpus, engine=LLAMA_CPP)
    told = [(verdict.claim.id, verdict.engine, verdict.status) for verdict in result.verdicts]
    assert [(row["claim"], row["engine"], row["status"]) for row in checked[1]["verdicts"]] == told
    assert str(result.run["command"]).endswith(f"--engine {LLAMA_CPP}")


@pytest.mark.slow
def test_baselines_lie_by_engine(run, base, corpus, project):
    """Kept once, verdicts of llama.cpp are held to their own baselines, beside those of transformers."""
    options = ("--sw-model", str(base), "--sw-engine", LLAMA_CPP, "--sw-corpus", corpus)
    run(*options, "--snapshot-update", claims="known_place or multiplies").assert_outcomes(passed=2)
    kept = {path.parent.name: path for path in project.path.glob("baselines/*base*/*/C*.json")}
    assert {"cpu-float32", "llama.cpp-cpu-f16"} == set(kept)
    record = json.loads(kept["llama.cpp-cpu-f16"].read_text())
    assert LLAMA_CPP == record["engine"]
    assert "xllamacpp" in record["provenance"]
    assert "engine" not in json.loads(kept["cpu-float32"].read_text())
    run(*options, claims="known_place or multiplies").assert_outcomes(passed=2)


def test_the_plugin_refuses_what_the_engine_cannot_run(run):
    """A usage error, before anything is collected."""
    result = run("--sw-model", "tiny-planted", "--sw-engine", LLAMA_CPP)
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    assert "runs GGUF files" in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize(("options", "expected"), [((), False), (("--sw-base-engine", TRANSFORMERS), True)])
def test_the_plugin_takes_the_engine_of_the_base(pytester, base, folder, options, expected):
    """A base that llama.cpp could run stays in transformers where that is asked for."""
    release = write_tiny_gguf(folder / f"release-{expected}.gguf", kind="F16")
    words = ("--sw-model", release, "--sw-base", base, "--sw-engine", LLAMA_CPP, *options)
    config = pytester.parseconfigure(*map(str, words))
    assert expected is (engine_loader(config, base_model(config)) is None)


def test_the_plugin_refuses_an_engine_for_no_base(run):
    """It would be ignored."""
    result = run("--sw-model", "tiny-planted", "--sw-base-engine", TRANSFORMERS)
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    assert "none is given" in result.stdout.str() + result.stderr.str()


def test_the_tiny_file_is_what_gguf_s_own_reader_reads(base):
    """The planted scalar stands in the file where the paper's coordinate says."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(base).tensors}
    assert np.float16(4.0) == tensors[PLANTED].data[41, 23]
