"""Where a model's files come from: a directory, a GGUF file, a wheel, or the hub."""

import json
import time
from types import SimpleNamespace

import huggingface_hub
import huggingface_hub.constants  # a lazy package: by itself it has neither
import huggingface_hub.errors
import pytest

import superweight.checkpoints.hub
from superweight.checkpoints.hub import _listed, cached_snapshot, listed_files
from superweight.checkpoints.local_model import LocalModel, documents
from superweight.checkpoints.registry import ModelEntry, load_registry
from superweight.checkpoints.sources import fetch
from superweight.core.errors import BadInput, Unavailable
from tests.helpers.checkpoint_files import write_small_gguf

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def entry(source, **fields):
    return ModelEntry(name="m", source=str(source), **fields)


def refused(*arguments, **options):
    """The one line in which a source is refused."""
    with pytest.raises(BadInput) as caught:
        fetch(*arguments, **options)
    assert 1 == len(str(caught.value).splitlines())
    return str(caught.value)


@pytest.fixture
def checkpoint(tmp_path):
    """What makes a directory a checkpoint, as far as sources look."""
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"")
    return directory


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub cache, and a hub that cannot be reached; the requests made of it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    asked = []

    def unreachable(self, repo, **options):
        asked.append((repo, options))
        raise OSError("Network is unreachable\nfor ever")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    # What a hub said before, within the minute, is another test's.
    monkeypatch.setattr(superweight.checkpoints.hub, "_listed", _listed.__wrapped__)
    return asked


@pytest.fixture
def cached(tmp_path, hub):
    """One snapshot, laid out as the hub client does it."""
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text("{}")
    return snapshot


def test_a_directory_is_used_where_it_lies(checkpoint):
    """A checkpoint on this machine is neither copied nor given a revision."""
    assert LocalModel(checkpoint, None) == fetch(entry(checkpoint))


def test_a_relative_source_is_meant_from_the_registry(checkpoint, tmp_path, monkeypatch):
    """A registry's relative path is resolved in the registry's folder, not the working directory."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert checkpoint == fetch(entry("checkpoint", root=tmp_path)).path
    assert "no model 'checkpoint'" in refused(entry("checkpoint"))


def test_the_shipped_checkpoints_are_found_from_anywhere(tmp_path, monkeypatch):
    """The tiny models of the registry are there whatever the working directory."""
    monkeypatch.chdir(tmp_path)
    assert (fetch(load_registry()["tiny-planted"]).path / "model.safetensors").is_file()


def test_refuses_an_empty_directory(tmp_path):
    """A directory without config.json is named and called no checkpoint."""
    assert f"{tmp_path} holds no config.json" in refused(entry(tmp_path))


def test_refuses_weights_without_a_config(checkpoint):
    """Weights alone are no checkpoint."""
    (checkpoint / "config.json").unlink()
    assert f"{checkpoint} holds no config.json" in refused(entry(checkpoint))


def test_refuses_a_config_without_weights(checkpoint):
    """A config alone says that the weights are missing."""
    (checkpoint / "model.safetensors").unlink()
    assert f"{checkpoint} holds no .safetensors file" in refused(entry(checkpoint))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_refuses_pickled_weights_until_trusted(checkpoint, name):
    """Weights that run code when read are named, with the two ways out, and accepted by name only."""
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / name).write_bytes(b"")
    message = refused(entry(checkpoint))
    assert f"only pickled weights ({name})" in message
    assert "--trust pickle" in message
    assert checkpoint == fetch(entry(checkpoint), allow_pickle=True).path


def test_pickled_weights_beside_safetensors_are_nobodys_business(checkpoint):
    """A directory that holds safetensors is accepted whatever else lies in it."""
    (checkpoint / "pytorch_model.bin").write_bytes(b"")
    assert checkpoint == fetch(entry(checkpoint)).path


def test_takes_a_gguf_file(tmp_path):
    """A file with the right suffix and magic is a GGUF model."""
    (tmp_path / "m.gguf").write_bytes(b"GGUF\x03")
    local = fetch(entry(tmp_path / "m.gguf"))
    assert (tmp_path / "m.gguf", True) == (local.path, local.is_gguf)


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\x03\x04"], ids=["empty", "truncated", "another"])
def test_refuses_a_gguf_file_without_the_magic(tmp_path, content):
    """What does not begin as GGUF files do is refused before anything parses it."""
    (tmp_path / "m.gguf").write_bytes(content)
    message = refused(entry(tmp_path / "m.gguf"))
    assert f"{tmp_path / 'm.gguf'} does not begin with the GGUF magic" in message


def test_refuses_a_gguf_file_that_is_not_there(tmp_path):
    """A missing .gguf file is named with the reason, not looked for on the hub."""
    expected = f"cannot read {tmp_path / 'absent.gguf'}: No such file or directory"
    assert expected == refused(entry(tmp_path / "absent.gguf"))


def test_refuses_any_other_file(tmp_path):
    """A file that is no GGUF file is no model."""
    (tmp_path / "weights.safetensors").write_bytes(b"")
    message = refused(entry(tmp_path / "weights.safetensors"))
    assert "is neither a model directory nor a .gguf file" in message


@pytest.mark.parametrize(
    "source",
    ["tiny-plantd", "./no/where", "/no/where", "~/model", "a/b/c", "org/name@", "two\nlines"],
    ids=["typo", "relative", "absolute", "home", "three parts", "no revision", "two lines"],
)
def test_an_unknown_name_never_reaches_the_hub(hub, source):
    """What can be no hub id gets one line that lists what it might have been."""
    message = refused(entry(source))
    assert message.startswith(f"no model {source!r}: ")
    assert "superweight models" in message
    assert [] == hub


@pytest.mark.parametrize(
    "fields",
    [{}, {"member": "m.gguf"}, {"member": "m.gguf", "wheel_sha256": "ff"}],
    ids=["no pins", "member only", "no hash of the member"],
)
def test_refuses_a_wheel_that_is_not_pinned(fields):
    """A wheel is read only with its member and both hashes on record."""
    message = refused(entry("wheel:project==1.0", **fields))
    assert message.startswith("wheel:project==1.0: ")
    assert "member, wheel_sha256 and member_sha256" in message


def test_a_hub_that_is_out_of_reach_is_bad_input_at_once(hub):
    """One attempt, with a timeout, then one line: what was tried and why it failed."""
    began = time.monotonic()
    message = refused(entry("org/name@v2"))
    assert 5 > time.monotonic() - began
    assert "org/name is no directory here, is not in the hub's cache" in message
    assert message.endswith("Network is unreachable")
    ((repo, options),) = hub
    assert ("org/name", "v2") == (repo, options["revision"])
    assert 10 > options["timeout"]


def test_a_nameless_failure_of_the_hub_is_named_by_its_kind(hub, monkeypatch):
    """An exception without a message still gives a reason."""

    def silent(self, repo, **options):
        raise TimeoutError

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", silent)
    assert refused(entry("org/name")).endswith("TimeoutError")


@pytest.mark.parametrize("spec", ["org/name", "org/name@main", f"org/name@{COMMIT}"])
def test_a_cached_snapshot_is_used_without_the_hub(cached, hub, spec):
    """A model in the hub's cache loads offline, and its commit is its revision."""
    (cached / "model.safetensors").write_bytes(b"")
    assert LocalModel(cached, COMMIT) == fetch(entry(spec))
    assert [] == hub


def test_another_revision_than_the_cached_one_is_asked_for(cached, hub):
    """A snapshot of main does not pass for another revision."""
    (cached / "model.safetensors").write_bytes(b"")
    refused(entry("org/name@v2"))
    assert 1 == len(hub)


def test_a_cached_snapshot_without_weights_is_asked_for(cached, hub):
    """A snapshot of which only the config came is not taken for a model."""
    refused(entry("org/name"))
    assert 1 == len(hub)


def test_a_cached_snapshot_of_pickles_is_refused_until_trusted(cached, hub):
    """The hub's cache gets no more trust than a directory."""
    (cached / "pytorch_model.bin").write_bytes(b"")
    refused(entry("org/name"))
    assert LocalModel(cached, COMMIT) == fetch(entry("org/name"), allow_pickle=True)


def test_what_comes_from_the_hub_is_checked_like_a_directory(cached, hub, monkeypatch):
    """A repository that turns out to hold no weights is refused after the download, by its path."""
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: SimpleNamespace(siblings=[]))
    offered = []

    def download(repo, *, revision=None, local_files_only=False, allow_patterns=None, ignore_patterns=None):
        offered.append(allow_patterns)
        return str(cached)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert "holds no .safetensors file" in refused(entry("org/name"))
    assert "*.safetensors" in offered[-1]
    assert "*.bin" not in offered[-1]


def hub_error(kind):
    """An error of the hub's client as its HTTP layer raises it."""
    import httpx2 as httpx

    address = "https://huggingface.co/api/models/org/name"
    response = httpx.Response(403, request=httpx.Request("GET", address))
    return kind("what the hub said", response=response)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("GatedRepoError", "org/name is gated: accept its licence at https://huggingface.co/org/name, then"),
        ("RepositoryNotFoundError", "the hub has no org/name, or keeps it from you"),
        ("RevisionNotFoundError", "org/name has no revision 'v9' on the hub"),
    ],
)
def test_the_hubs_refusals_say_what_to_do(hub, monkeypatch, kind, said):
    """A gated model, a missing one and a missing revision are told apart, and are all unavailable."""

    def refuse(self, repo, **options):
        raise hub_error(getattr(huggingface_hub.errors, kind))

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(Unavailable) as caught:
        fetch(entry("org/name@v9"))
    assert said in str(caught.value)


def test_offline_mode_is_named(hub, monkeypatch):
    """HF_HUB_OFFLINE is the hub client's own switch, and the reason that is given."""

    def refuse(self, repo, **options):
        raise huggingface_hub.errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(Unavailable, match="HF_HUB_OFFLINE is set"):
        fetch(entry("org/name"))


def test_a_repository_of_pickles_is_refused_before_it_is_downloaded(hub, monkeypatch):
    """It is named, with the ways out; nothing of it is fetched."""
    files = ["config.json", "pytorch_model-00001-of-00002.bin"]
    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, repo, **options: info)
    with pytest.raises(Unavailable, match=r"only pickled weights \(pytorch_model-00001.*--trust pickle"):
        fetch(entry("org/name"))


def test_the_hub_is_asked_once_a_minute_what_a_repository_holds(monkeypatch):
    """Who asks what it is and then brings it asks once; a minute later it may hold something else."""
    asked, clock = [], [1000.0 * 60]

    def told(self, repo, *, revision, timeout):
        asked.append((repo, revision, timeout))
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename="config.json")])

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", told)
    monkeypatch.setattr("superweight.checkpoints.hub.time", SimpleNamespace(monotonic=lambda: clock[0]))
    _listed.cache_clear()
    for seconds, count in ((0, 1), (59, 1), (60, 2)):
        clock[0] = 60_000.0 + seconds
        assert ("config.json",) == listed_files("org/once", None)
        assert count == len(asked)
    assert ("org/once", None, 4.0) == asked[0]
    listed_files("org/once", "v2")
    assert 3 == len(asked)
    _listed.cache_clear()


def test_a_hub_that_does_not_answer_is_told_and_asked_no_more_than_once(hub, monkeypatch):
    """What it said is handed on, without what was running when it was said."""
    _listed.cache_clear()
    monkeypatch.setattr(superweight.checkpoints.hub, "_listed", _listed)
    first, second = listed_files("org/silent", None), listed_files("org/silent", None)
    assert first is second
    assert (OSError, None) == (type(first), first.__traceback__)
    assert 1 == len(hub)
    _listed.cache_clear()


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("https://huggingface.co", "and the hub could not be asked for it"),
        ("https://mirror", "and the hub at https://mirror (HF_ENDPOINT) could not be asked for it"),
        ("a-mirror", "and the hub at a-mirror (HF_ENDPOINT) could not be asked for it"),
    ],
)
def test_another_hub_is_named_by_its_address(hub, monkeypatch, endpoint, said):
    """It is the setting that is to be looked at."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    assert said in refused(entry("org/name"))


def test_a_gguf_file_of_a_cached_snapshot_is_used(cached, hub):
    """With the snapshot's commit as its revision; nobody is asked."""
    write_small_gguf(cached / "m-Q8_0.gguf")
    for words in ("org/name:m-Q8_0.gguf", "org/name:Q8_0"):
        assert LocalModel(cached / "m-Q8_0.gguf", COMMIT) == fetch(entry(words))
        assert cached / "m-Q8_0.gguf" == cached_snapshot(words)
    assert [] == hub


@pytest.mark.parametrize("words", ["nonsense", "./org/name", "org/absent", "org/name:absent.gguf"])
def test_of_what_the_cache_has_not_there_is_no_snapshot(cached, words):
    """A path, another repository, or a file that did not come."""
    assert cached_snapshot(words) is None


def test_a_pinned_revision_is_asked_for(hub):
    """The registry's revision reaches the hub, unless the source names one itself."""
    refused(entry("org/name", revision="abc"))
    refused(entry("org/name@def"))
    assert ["abc", "def"] == [options["revision"] for _, options in hub]


def test_a_sharded_checkpoint_must_be_complete(checkpoint):
    """A shard that the index names and nobody has is named, not met in the middle of loading."""
    (checkpoint / "model.safetensors").unlink()
    index = {"weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    (checkpoint / "model-00001-of-00002.safetensors").write_bytes(b"")
    assert "lacks model-00002-of-00002.safetensors" in refused(entry(checkpoint))
    (checkpoint / "model-00002-of-00002.safetensors").write_bytes(b"")
    assert checkpoint == fetch(entry(checkpoint)).path
    (checkpoint / "model.safetensors.index.json").write_text("[]")
    assert "model.safetensors.index.json holds no JSON object" in refused(entry(checkpoint))


@pytest.mark.parametrize(
    ("shards", "there", "said"),
    [
        (["model.safetensors"], [], None),
        (["weights.safetensors"], ["weights.safetensors"], "another set of weights (weights.safetensors)"),
        (["a.safetensors"], ["a.safetensors"], "another set of weights (a.safetensors)"),
        (["a.safetensors", "b.safetensors"], ["a.safetensors"], "1 files that are not there"),
    ],
    ids=["the same file", "one behind it", "one before it", "half of another"],
)
def test_an_index_beside_one_file_of_weights_is_told(checkpoint, caplog, shards, there, said):
    """transformers loads the one file; whoever reads by the index takes another set."""
    index = {"weight_map": {str(number): name for number, name in enumerate(shards)}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in there:
        (checkpoint / name).write_bytes(b"")
    assert checkpoint == fetch(entry(checkpoint)).path
    assert ([] if said is None else [True]) == [said in line for line in caplog.messages]


def test_a_folder_in_place_of_a_document_says_nothing(checkpoint):
    """What cannot be read is no document, and no traceback."""
    (checkpoint / "README.md").mkdir()
    read = documents(checkpoint)
    assert (None, None, b"{}") == (read("README.md"), read("absent"), read("config.json"))


@pytest.mark.parametrize("name", ["model.v2", "model.gguf-copy", "model"])
def test_a_folder_is_no_gguf_file_whatever_it_is_called(checkpoint, name):
    """The end of a name tells, and nothing that comes behind it in the alphabet."""
    renamed = checkpoint.rename(checkpoint.with_name(name))
    assert not fetch(entry(renamed)).is_gguf
