"""Which engine runs a model and its base."""

from __future__ import annotations

from dataclasses import replace

import pytest

from superweight.checkpoints.model_ref import parse_model
from superweight.claims.catalogue import CLAIMS
from superweight.claims.run_config import RunConfig
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
