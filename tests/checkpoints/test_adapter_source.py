"""Which words name an adapter: a folder or a repository, either with a base or a revision behind it."""

from __future__ import annotations

import huggingface_hub
import pytest

from superweight.checkpoints import adapter_source
from superweight.checkpoints.adapter_source import named_adapter
from superweight.checkpoints.registry import ModelEntry
from superweight.core.errors import Unavailable

ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "README.md")
MODEL = ("config.json", "model.safetensors")


def written(folder, names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of some repositories and an empty cache; what was asked of it, and what was downloaded."""

    class Hub:
        def __init__(self):
            self.holds = {
                "org/lora": ADAPTER,
                "org/plain": MODEL,
                "org/both": (*ADAPTER, *MODEL),
                "org/configured": (*ADAPTER, "config.json"),
                "org/weighted": (*ADAPTER, "model.safetensors"),
            }
            self.cache, self.asked, self.downloaded = {}, [], []

        def listed(self, repo, revision):
            self.asked.append((repo, revision))
            return self.holds.get(repo, OSError("no network"))

        def download(self, repo, *, revision, allow_patterns):
            self.downloaded.append((repo, revision, tuple(allow_patterns)))
            return str(tmp_path / "downloaded")

    made = Hub()
    monkeypatch.setattr(adapter_source, "cached_snapshot", made.cache.get)
    monkeypatch.setattr(adapter_source, "listed_files", made.listed)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.download)
    return made


def named(source, root, **fields):
    return named_adapter(ModelEntry(name="m", source=source, root=root, **fields))


@pytest.mark.parametrize(
    ("source", "revision", "base"),
    [
        ("org/lora", None, None),
        ("org/lora@main", "main", None),
        ("org/lora@refs/pr/1", "refs/pr/1", None),
        ("org/lora@org/base", None, "org/base"),
        ("org/lora@org/base@main", None, "org/base@main"),
        ("org/lora@main@org/base", "main", "org/base"),
        ("org/lora@tiny-planted", None, "tiny-planted"),
        ("org/lora@tiny-planted=elsewhere", None, "tiny-planted=elsewhere"),
        ("org/lora@here", None, "here"),
        ("org/lora@not-here", "not-here", None),
    ],
)
def test_what_follows_a_repository_is_a_base_or_a_revision(hub, tmp_path, source, revision, base):
    """A base has a slash or an equals sign, is a registry name or lies here; the rest are revisions."""
    written(tmp_path / "here", MODEL)
    assert (tmp_path / "downloaded", base) == named(source, tmp_path)
    assert [("org/lora", revision, ADAPTER[:2])] == hub.downloaded
    assert ("org/lora", revision) == hub.asked[-1]


@pytest.mark.parametrize(
    "source",
    [
        *("org/plain", "org/plain@main", "org/plain@org/base", "org/both", "org/configured", "org/weighted"),
        *("org/absent", "org/lora:file.gguf", "wheel:name==1.0", "nonsense", "models/x.gguf"),
    ],
)
def test_what_is_no_adapter_is_left_to_others(hub, tmp_path, source):
    """A model, one with an adapter beside it, what the hub does not tell of, and what is no repository."""
    assert named(source, tmp_path) is None
    assert [] == hub.downloaded


@pytest.mark.parametrize(
    "source",
    [
        *("org/lora:file.gguf", "wheel:name==1.0", "nonsense", "models/x.gguf"),
        *("mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.1@main"),
    ],
)
def test_of_what_is_certainly_no_adapter_nobody_is_asked(hub, tmp_path, source):
    """A name that ends as a file does is a file that is not there; a registry holds models."""
    named(source, tmp_path)
    assert [] == hub.asked


def test_the_revision_of_an_entry_is_the_adapter_s(hub, tmp_path):
    """A registry may pin one; one that was typed goes first."""
    named("org/lora", tmp_path, revision="pinned")
    named("org/lora@typed", tmp_path, revision="pinned")
    assert ["pinned", "typed"] == [revision for _, revision, _ in hub.downloaded]


@pytest.mark.parametrize(
    ("cached", "asked", "downloaded"),
    [
        (ADAPTER, 0, 0),
        (MODEL, 0, 0),
        ((*MODEL, *ADAPTER), 1, 1),
        (ADAPTER[:1], 1, 1),
        ((), 1, 1),
    ],
    ids=["an adapter", "a model", "both", "a part of an adapter", "nothing of use"],
)
def test_the_cache_answers_where_it_can(hub, tmp_path, cached, asked, downloaded):
    """Nobody is asked where what is here says what it is."""
    hub.cache["org/lora"] = folder = written(tmp_path / "cached", cached)
    found = named("org/lora", tmp_path)
    assert (asked, downloaded) == (len(hub.asked), len(hub.downloaded))
    if cached is ADAPTER:
        assert (folder, None) == found
    elif cached is MODEL:
        assert found is None
    else:
        assert (tmp_path / "downloaded", None) == found


@pytest.mark.parametrize(
    ("source", "folder", "base"),
    [
        ("lora", "lora", None),
        ("lora@org/base", "lora", "org/base"),
        ("lora@x", "lora", "x"),
        ("lora@", "lora", None),
        ("at@home", "at@home", None),
        ("at@home@org/base", "at@home", "org/base"),
        ("org/lora", "org/lora", None),
    ],
)
def test_a_folder_is_an_adapter_whatever_it_is_called(hub, tmp_path, source, folder, base):
    """And no hub is asked about what lies here."""
    written(tmp_path / folder, ADAPTER)
    assert (tmp_path / folder, base) == named(source, tmp_path)
    assert [] == hub.asked


def test_a_model_that_lies_here_is_no_repository(hub, tmp_path):
    """Its folder may be called as a repository is."""
    written(tmp_path / "org" / "lora", MODEL)
    assert named("org/lora", tmp_path) is None
    assert [] == hub.asked


def test_a_name_that_no_file_system_takes_is_none(hub, tmp_path):
    """It is refused by whoever looks for the model."""
    assert named("x" * 5000, tmp_path) is None


def test_an_adapter_that_does_not_come_is_said(hub, tmp_path, monkeypatch):
    """The hub told of it and does not give it."""

    def refused(*words, **options):
        raise OSError("Connection reset\nby peer")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(Unavailable, match="the adapter org/lora cannot be downloaded: Connection reset"):
        named("org/lora", tmp_path)


def test_a_download_is_told_of(hub, tmp_path):
    """By the repository's name."""
    told = []
    named_adapter(ModelEntry(name="m", source="org/lora", root=tmp_path), told.append)
    assert ["downloading org/lora"] == told
