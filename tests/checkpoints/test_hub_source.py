"""org/name[@revision][:file.gguf or :Q4_K_M], as llama.cpp's users write it."""

import pytest

from superweight.checkpoints.hub_source import HubSource
from superweight.core.errors import BadInput

FILES = [
    "README.md",
    "Model-7B-Q4_K_M.gguf",
    "Model-7B-Q4_K_S.gguf",
    "Model-7B.f16.gguf",
    "Q8_0/Model-7B-Q8_0-00001-of-00002.gguf",
    "Q8_0/Model-7B-Q8_0-00002-of-00002.gguf",
    "mmproj-Model-Q4_K_M.gguf",
]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("org/name", HubSource("org/name")),
        ("org/name@v2", HubSource("org/name", "v2")),
        ("org/name:Q4_K_M", HubSource("org/name", None, "Q4_K_M")),
        ("org/name:m.gguf", HubSource("org/name", None, "m.gguf")),
        ("org/name:Q8_0/m.gguf", HubSource("org/name", None, "Q8_0/m.gguf")),
        ("org/name@refs/pr/1:Q4_0", HubSource("org/name", "refs/pr/1", "Q4_0")),
        ("org/name:Q4_0@v2", HubSource("org/name", "v2", "Q4_0")),
        ("hf://org/name", HubSource("org/name")),
        ("hf://org/name@refs%2Fpr%2F1/a/m.gguf", HubSource("org/name", "refs/pr/1", "a/m.gguf")),
        ("hf://org/name/model.safetensors", None),
        ("org/name:", None),
        ("org/name@", None),
        ("org/name@a:Q4@b", None),
        ("name:Q4_0", None),
        ("./org/name:Q4_0", None),
        ("/org/name", None),
        ("org/name:../secret.gguf", HubSource("org/name", None, "../secret.gguf")),
    ],
)
def test_what_is_written_is_understood(source, expected):
    """A path is never taken for a repository."""
    assert expected == HubSource.parse(source)


@pytest.mark.parametrize(
    "source", ["org/name", "org/name@v2", "org/name:Q4_0", "org/name@refs/pr/1:a/m.gguf"]
)
def test_what_was_understood_is_written_as_it_was(source):
    """With the revision and the file that it names, and with no others."""
    assert source == HubSource.parse(source).address


def test_a_folder_names_the_file_in_it():
    """Whatever its file is called, and in whichever folder the folder lies."""
    files = ["models/IQ2/weights.gguf", "models/IQ3/weights.gguf"]
    assert files[1] == HubSource("org/name", None, "IQ3").choose(files)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("Model-7B-Q4_K_M.gguf", "Model-7B-Q4_K_M.gguf"),
        ("Q4_K_M", "Model-7B-Q4_K_M.gguf"),
        ("q4_k_m", "Model-7B-Q4_K_M.gguf"),
        ("F16", "Model-7B.f16.gguf"),
        ("Q8_0", "Q8_0/Model-7B-Q8_0-00001-of-00002.gguf"),
        ("Q8_0/Model-7B-Q8_0-00002-of-00002.gguf", "Q8_0/Model-7B-Q8_0-00002-of-00002.gguf"),
        ("mmproj-Model-Q4_K_M.gguf", "mmproj-Model-Q4_K_M.gguf"),
    ],
)
def test_a_file_is_found_by_its_name_or_its_quantiser(wanted, expected):
    """One in parts by its first; a projector only by its whole name."""
    assert expected == HubSource("org/name", None, wanted).choose(FILES)


@pytest.mark.parametrize("wanted", ["Q4_K", "Q2_K", "4_K_M", "m.gguf", "../secret.gguf"])
def test_a_file_that_is_not_there_names_those_that_are(wanted):
    """Half a name is none, and nothing outside of the repository is looked for."""
    with pytest.raises(BadInput, match=r"no GGUF file .*\(Model-7B-Q4_K_M.gguf, Model-7B-Q4_K_S"):
        HubSource("org/name", None, wanted).choose(FILES)


def test_two_files_of_one_quantiser_are_told_apart_by_name():
    """Which is meant is for the person to say."""
    with pytest.raises(BadInput, match=r"more than one GGUF file Q4_0; .*\(a-Q4_0.gguf, b-Q4_0.gguf\)"):
        HubSource("org/name", None, "Q4_0").choose(["a-Q4_0.gguf", "b-Q4_0.gguf"])
