"""Which engine runs a model and its base."""

from __future__ import annotations

from dataclasses import replace

import pytest

from superweight.checkpoints.model_ref import ModelRef, parse_model
from superweight.claims import evidence as evidence_module
from superweight.claims.catalogue import CLAIMS, SEQUENTIAL
from superweight.claims.evidence import Evidence
from superweight.claims.run_config import RunConfig
from superweight.engines.in_transformers import TransformersEngine
from tests.helpers.planted_gguf import write_tiny_gguf

LLAMA = "llama.cpp"


@pytest.fixture
def gguf(tmp_path):
    path = tmp_path / "model.gguf"
    write_tiny_gguf(path)
    return parse_model(str(path))


def test_a_model_is_its_own_engine_unless_another_was_asked_for():
    """Transformers needs no loader of an engine."""
    assert RunConfig().engine_loader("transformers") is None
    assert callable(RunConfig().engine_loader(LLAMA))


def test_a_base_runs_in_the_engine_of_its_release_where_that_can_run_it(gguf):
    """llama.cpp runs GGUF files; any other base runs in transformers."""
    config = RunConfig(engine=LLAMA)
    assert LLAMA == config.engine_of_base(gguf)
    assert "transformers" == config.engine_of_base(parse_model("tiny-planted"))
    assert "transformers" == RunConfig().engine_of_base(gguf)


@pytest.mark.parametrize("asked", ["transformers", LLAMA])
def test_the_engine_of_a_base_is_the_one_that_was_asked_for(gguf, asked):
    """Whatever runs the release."""
    for engine in ("transformers", LLAMA):
        config = RunConfig(engine=engine, base_engine=asked)
        assert asked == config.engine_of_base(gguf)
        assert replace(config, engine=asked) == config.for_base(gguf)


def test_claims_of_predictions_and_of_text_are_those_of_the_engine():
    """As docs/engines.md lists them; all others read the stream."""
    assert ["C3", "C4", "C9", "C10", "C11"] == [claim.id for claim in CLAIMS if claim.of_predictions]
    assert ["C14"] == [claim.id for claim in CLAIMS if claim.relation]


def test_a_model_that_is_loaded_already_is_taken(planted):
    """By its entry; any other is loaded."""
    config = RunConfig(device="cpu", loaded=(planted,))
    assert planted is config.load(ModelRef.of(planted.entry))
    other = config.load(parse_model("tiny-plain"))
    assert (False, "tiny-plain") == (other is planted, other.name)


class Other(TransformersEngine):
    """An engine that is not the one of the stream, and says when it is let go of."""

    freed = False

    def free(self):
        self.freed = True


@pytest.mark.parametrize("another", [False, True])
def test_each_engine_reads_on_for_its_own_tests(planted, monkeypatch, another):
    """C3, C4 and C10 rest on predictions, C8 on the stream; C9 says nothing of this model."""
    seen = []
    monkeypatch.setattr(
        evidence_module, "SequentialEvaluation", lambda *given, tests, **options: seen.append(len(tests))
    )
    evidence = Evidence(planted, "builtin", load_engine=Other if another else None, tests=SEQUENTIAL)
    _ = evidence.sequential, evidence.sequential_of_stream
    assert ([3, 1] if another else [4]) == seen[: 2 if another else 1]


def test_an_engine_is_let_go_of_once_it_was_loaded(planted):
    """And is not loaded for that."""
    evidence = Evidence(planted, "builtin", load_engine=Other)
    evidence.free()
    assert evidence.peek("engine") is None
    engine = evidence.engine
    evidence.free()
    assert engine.freed
