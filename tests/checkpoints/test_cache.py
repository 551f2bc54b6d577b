"""The cache directory: published whole or not at all, once, by whoever comes first."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from superweight.checkpoints.cache import cache_directory, get_or_build, sha256
from superweight.core.errors import BadInput


def visible(directory):
    """What a reader sees; the lock files stay behind on purpose."""
    return sorted(path.name for path in directory.iterdir() if not path.name.endswith(".lock"))


def test_lies_where_xdg_says(monkeypatch, tmp_path):
    """XDG_CACHE_HOME moves the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tmp_path / "superweight-harness" == cache_directory()


@pytest.mark.parametrize("configured", [None, "", "relative/cache"], ids=["unset", "empty", "relative"])
def test_lies_at_home_otherwise(monkeypatch, tmp_path, configured):
    """Without an absolute XDG_CACHE_HOME the cache is ~/.cache, never below the working directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    if configured is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", configured)
    assert tmp_path / ".cache" / "superweight-harness" == cache_directory()


def test_publishes_a_file(tmp_path):
    """What build writes is at the destination afterwards, and nothing else is."""
    destination = tmp_path / "deep" / "down" / "file"
    assert destination == get_or_build(destination, lambda scratch: scratch.write_text("all of it") and None)
    assert "all of it" == destination.read_text()
    assert ["file"] == visible(destination.parent)


def test_publishes_a_directory(tmp_path):
    """A whole directory appears in one step."""

    def build(scratch):
        scratch.mkdir()
        (scratch / "one").write_text("1")
        assert not (tmp_path / "folder").exists()
        (scratch / "two").write_text("2")

    assert ["one", "two"] == sorted(path.name for path in get_or_build(tmp_path / "folder", build).iterdir())


def test_does_not_build_what_is_there(tmp_path):
    """The second call returns the first one's work and builds nothing."""
    built = []

    def build(scratch):
        built.append(scratch)
        scratch.write_text(f"build {len(built)}")

    get_or_build(tmp_path / "file", build)
    get_or_build(tmp_path / "file", build)
    assert 1 == len(built)
    assert "build 1" == (tmp_path / "file").read_text()


@pytest.mark.parametrize(
    ("failure", "seen"),
    [
        (OSError(28, "No space left on device"), BadInput),
        (BadInput("wrong hash"), BadInput),
        (RuntimeError("boom"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["disk full", "bad input", "bug", "interrupt"],
)
def test_a_build_that_fails_leaves_nothing(tmp_path, failure, seen):
    """Whatever ends a build half-way, no reader ever meets what it had written."""

    def build(scratch):
        scratch.mkdir()
        (scratch / "half").write_text("half")
        raise failure

    with pytest.raises(seen):
        get_or_build(tmp_path / "folder", build)
    assert [] == visible(tmp_path)


def test_a_build_can_be_tried_again(tmp_path):
    """A failure neither holds the lock nor stands in the way of the next attempt."""

    def fail(scratch):
        raise BadInput("not this time")

    with pytest.raises(BadInput, match="not this time"):
        get_or_build(tmp_path / "file", fail)
    assert (
        "done"
        == get_or_build(tmp_path / "file", lambda scratch: scratch.write_text("done") and None).read_text()
    )


def test_a_full_disk_is_bad_input(tmp_path):
    """An OSError while building names the file, the reason and the way out, in one line."""

    def build(scratch):
        raise OSError(28, "No space left on device")

    with pytest.raises(BadInput) as caught:
        get_or_build(tmp_path / "file", build)
    message = str(caught.value)
    assert f"cannot write {tmp_path / 'file'}: No space left on device" in message
    assert "XDG_CACHE_HOME" in message
    assert 1 == len(message.splitlines())


@pytest.mark.parametrize("below", [".", "further"], ids=["is a file", "below a file"])
def test_a_cache_that_cannot_be_made_is_bad_input(tmp_path, below):
    """Where the cache's path runs through a file, the cache is named and nothing is built."""
    (tmp_path / "file").write_text("in the way")
    destination = tmp_path / "file" / below / "model"
    with pytest.raises(BadInput, match="set XDG_CACHE_HOME to a writable directory") as caught:
        get_or_build(destination, lambda scratch: pytest.fail("built without a cache"))
    assert str(destination.parent) in str(caught.value)
    assert 1 == len(str(caught.value).splitlines())


_PROCESS = """
import sys, time
from pathlib import Path
from superweight.checkpoints.cache import get_or_build

room, me = Path(sys.argv[1]), sys.argv[2]

def build(scratch):
    (room / f"built-by-{me}").touch()
    scratch.write_text("half")
    while not (room / "go").exists():
        time.sleep(0.01)
    scratch.write_text("whole")

(room / f"entered-{me}").touch()
print(get_or_build(room / "cache" / "file", build).read_text())
"""


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.01)


def test_two_processes_build_once(tmp_path):
    """A process that comes while another builds waits for it and reads the whole result."""
    processes = []
    try:
        for me, started in (("first", "built-by-first"), ("second", "entered-second")):
            command = [sys.executable, "-c", _PROCESS, str(tmp_path), me]
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            _wait_for(tmp_path / started)
        time.sleep(0.1)  # long enough to build, were nothing in the way
        (tmp_path / "go").touch()
        printed = [process.communicate(timeout=10)[0].strip() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert ["whole", "whole"] == printed
    assert ["built-by-first"] == [path.name for path in tmp_path.glob("built-by-*")]


def test_sha256_is_that_of_the_bytes(tmp_path):
    """The digest is the well-known one, in lower case."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" == sha256(tmp_path / "abc")
