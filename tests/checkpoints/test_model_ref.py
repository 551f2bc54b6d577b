"""A model's name is read once, where a person gave it, and what it stands for is handed on."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from superweight.checkpoints import model_ref
from superweight.checkpoints.model_ref import ModelRef, parse_model
from superweight.checkpoints.registry import resolve
from superweight.cli.main import main


@pytest.fixture
def asked(monkeypatch):
    """Every name that is read, in order."""
    names = []

    def counted(spec):
        names.append(spec)
        return resolve(spec)

    monkeypatch.setattr(model_ref, "resolve", counted)
    return names


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["compare", "tiny-planted", "tiny-tuned", "--depth", "static"], ["tiny-planted", "tiny-tuned"]),
        (["scan", "tiny-planted"], ["tiny-planted"]),
        (["read", "tiny-planted", "--directory"], ["tiny-planted"]),
        (["models", "tiny-plain", "tiny-tuned"], ["tiny-plain", "tiny-tuned"]),
    ],
)
def test_a_command_reads_each_name_once(words, names, asked):
    CliRunner().invoke(main, words, catch_exceptions=False)
    assert names == asked


def test_what_was_typed_is_kept(tmp_path):
    """The entry goes by its registry name, and messages may repeat the words."""
    ref = parse_model(f"tiny-planted={tmp_path}")
    assert (f"tiny-planted={tmp_path}", "tiny-planted", str(tmp_path)) == (
        str(ref),
        ref.entry.name,
        ref.entry.source,
    )


def test_a_relative_path_leads_on_from_the_given_folder(tmp_path):
    """Whatever the working directory is by the time when the model is loaded."""
    (tmp_path / "release").mkdir()
    assert tmp_path == parse_model("release", tmp_path).entry.root
    assert parse_model("release").entry.root != tmp_path


@pytest.mark.parametrize("spec", ["tiny-planted", "org/name", "tiny-planted=elsewhere"])
def test_an_entry_leads_back_to_what_a_person_types(spec):
    assert spec == ModelRef.of(parse_model(spec).entry).spec
