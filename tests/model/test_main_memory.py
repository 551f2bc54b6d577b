"""The dtype on a CPU: float32 where main memory has room for the weights, else the file's own."""

import json
import shutil

import pytest
import torch

from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import local_path
from superweight.core.errors import TooLarge
from superweight.model import main_memory
from superweight.model.loading import load


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(local_path(resolve("tiny-planted")), tmp_path / "model")


@pytest.mark.parametrize(
    ("free", "stored", "expected"),
    [
        (1e9, "bfloat16", torch.float32),
        (6e5, "bfloat16", torch.bfloat16),
        (6e5, "float16", torch.float16),
        (6e5, "float32", torch.bfloat16),
    ],
)
def test_a_model_that_does_not_fit_is_computed_with_in_16_bits(
    folder, monkeypatch, caplog, free, stored, expected
):
    """Its config's own 16 bits, and a note says what float32 would take; asked for, float32 is kept."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": stored}))
    monkeypatch.setattr(main_memory, "free_memory", lambda: int(free))
    subject = load(resolve(str(folder)), device="cpu")
    assert expected == subject.model.dtype
    assert str(expected).removeprefix("torch.") == subject.provenance.dtype
    assert ("GB in float32" in caplog.text) == (expected != torch.float32)
    assert torch.float32 == load(resolve(str(folder)), device="cpu", dtype="float32").model.dtype


def test_a_model_that_does_not_fit_in_16_bits_either_is_not_loaded(folder, monkeypatch):
    """A line says what would be done; who gives a dtype has it loaded."""
    monkeypatch.setattr(main_memory, "free_memory", lambda: 10**5)
    with pytest.raises(TooLarge) as caught:
        load(resolve(str(folder)), device="cpu")
    said = str(caught.value)
    assert said.startswith("model takes ")
    assert "GB in bfloat16 and 0.0001 GB of main memory are free; superweight scan runs such a model" in said
    assert torch.bfloat16 == load(resolve(str(folder)), device="cpu", dtype="bfloat16").model.dtype
