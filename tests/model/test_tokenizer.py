"""A tokenizer that cannot be loaded is named with what it lacks: a package, a file."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest

from superweight.checkpoints.registry import resolve
from superweight.core.errors import Unavailable
from superweight.model.loading import load
from superweight.model.tokenizer import EXTRA, missing_package
from tests.helpers.checkpoint_files import copy_checkpoint

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A model without a tokenizer, where the packages that read old ones are not installed."""
    copy_checkpoint("tiny-planted", tmp_path / "copy")
    (tmp_path / "copy" / "tokenizer.json").unlink()
    for name in ("sentencepiece", "tiktoken"):
        monkeypatch.setitem(sys.modules, name, None)
    return tmp_path / "copy"


def configure(path, kind):
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "PreTrainedTokenizerFast", "T5Tokenizer"])
@pytest.mark.parametrize("file", ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"])
def test_a_sentencepiece_model_asks_for_sentencepiece(copy, refusal, kind, file):
    """Not for tiktoken, which transformers tries last and names."""
    configure(copy, kind)
    (copy / file).write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    expected = f"{copy}: its tokenizer is read with the package sentencepiece, which is not installed; "
    assert f"{expected}pip install '{EXTRA}'" == refusal(load, resolve(str(copy)), device="cpu")


@pytest.mark.parametrize("file", ["tokenizer.model", "qwen.tiktoken"])
def test_a_list_of_ranks_asks_for_tiktoken(copy, refusal, file):
    """Llama 3's first release called it tokenizer.model."""
    configure(copy, "PreTrainedTokenizerFast")
    (copy / file).write_bytes(b"IQ== 0\nIg== 1\n")
    assert "with the package tiktoken, which is not" in refusal(load, resolve(str(copy)), device="cpu")


def test_what_a_package_would_mend_is_unavailable_and_not_broken(copy):
    """The model is sound; it cannot be looked at here."""
    (copy / "tokenizer.model").write_bytes(b"\n\x0e")
    with pytest.raises(Unavailable):
        load(resolve(str(copy)), device="cpu")


def test_no_tokenizer_at_all_is_named(copy, refusal):
    """A release without one says where it is to be had."""
    (copy / "tokenizer_config.json").unlink()
    line = refusal(load, resolve(str(copy)), device="cpu")
    assert f"{copy} holds no tokenizer (tokenizer.json); copy its files from the base" in line


def test_an_empty_tokenizer_is_not_taken_for_one(copy, refusal):
    """transformers makes one where a class does not know the file that is there."""
    configure(copy, "LlamaTokenizer")
    (copy / "vocab.txt").write_text("a\nb\n")
    line = refusal(load, resolve(str(copy)), device="cpu")
    assert "its tokenizer came up as an empty LlamaTokenizer" in line


def test_a_broken_tokenizer_is_named_with_its_cause(copy, refusal):
    """No package mends it."""
    (copy / "tokenizer.json").write_text("{")
    line = refusal(load, resolve(str(copy)), device="cpu")
    assert f"{copy}: its tokenizer does not load: " in line
    assert "package" not in line


@pytest.mark.parametrize(
    ("said", "package"),
    [
        ("\nX requires the SentencePiece library but it was not found in your environment.", "sentencepiece"),
        ("`tiktoken` is required to read a `tiktoken` file.", "tiktoken"),
        ("No module named 'mistral_common'", "mistral_common"),
        ("requires the torch library", None),
        ("something else", None),
    ],
)
def test_a_package_is_known_by_the_error_as_well(copy, said, package):
    """One that is installed is not asked for."""
    assert package == missing_package(ImportError(said), copy / "absent")


def test_a_sentencepiece_model_is_read_where_the_package_is(tmp_path):
    """The twin: a vocabulary trained by the package itself, told by its first byte, loads."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    copy_checkpoint("tiny-planted", tmp_path / "copy")
    (tmp_path / "copy" / "tokenizer.json").unlink()
    (tmp_path / "text").write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "copy" / "tokenizer"),
        vocab_size=40,
        model_type="bpe",
        minloglevel=9,
    )
    (tmp_path / "copy" / "tokenizer.vocab").unlink()
    configure(tmp_path / "copy", "LlamaTokenizer")
    tokenizer = load(resolve(str(tmp_path / "copy")), device="cpu").tokenizer
    assert "the lazy fox" == tokenizer.decode(
        tokenizer("the lazy fox")["input_ids"], skip_special_tokens=True
    )


def test_the_extra_that_is_named_brings_the_packages():
    """With bounds in pyproject.toml, pinned in constraints.txt."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = {line.partition("==")[0] for line in (REPOSITORY / "constraints.txt").read_text().splitlines()}
    wanted = {requirement.partition(">=")[0] for requirement in extras["tokenizers"]}
    assert "superweight-harness[tokenizers]" == EXTRA
    assert {"sentencepiece", "tiktoken", "protobuf"} == wanted
    assert wanted <= pinned
