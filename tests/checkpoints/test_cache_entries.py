"""The cache's limit: what was used longest ago goes first, and is named."""

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from superweight.checkpoints.cache import cache_directory, get_or_build, sole_use
from superweight.checkpoints.cache_entries import (
    DEFAULT_LIMIT,
    LIMIT,
    RECORD,
    entries,
    keep_within_limit,
    limit,
)
from superweight.cli.main import main
from superweight.core.errors import BadInput

HOUR = 3600


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Make an entry of so many bytes that was last used so many hours ago."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def make(name, size, hours):
        def build(scratch):
            scratch.mkdir()
            (scratch / "model.safetensors").write_bytes(bytes(size - 30))
            (scratch / RECORD).write_text(json.dumps({"file": f"{name}.gguf"}).ljust(30))

        folder = get_or_build(cache_directory() / "converted" / name, build)
        for path in (*folder.iterdir(), folder):
            os.utime(path, (time.time() - hours * HOUR,) * 2)
        return folder

    return make


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", DEFAULT_LIMIT),
        ("500", 500),
        ("2k", 2000),
        ("3M", 3_000_000),
        ("20GB", 20 * 10**9),
        ("1.5 tb", 1.5 * 10**12),
    ],
)
def test_the_limit_is_a_size(monkeypatch, text, expected):
    """Bytes, or a number with a unit; 20 GB where nothing is said."""
    monkeypatch.setenv(LIMIT, text)
    assert expected == limit()


def test_a_limit_that_is_no_size_is_refused(monkeypatch):
    """The line names the variable and what may be written."""
    monkeypatch.setenv(LIMIT, "much")
    with pytest.raises(BadInput, match=f"{LIMIT} is 'much', which is no size; write bytes, or 500MB"):
        limit()


def test_what_was_used_longest_ago_goes_first(made, monkeypatch, caplog):
    """Until the rest is within the limit; a note names it and the variable."""
    old, older, newest = made("old", 400, 3), made("older", 400, 5), made("newest", 400, 1)
    monkeypatch.setenv(LIMIT, "900")
    assert [older] == [entry.path for entry in keep_within_limit(newest)]
    assert (True, False, True) == (old.exists(), older.exists(), newest.exists())
    assert f"{LIMIT}): older.gguf (4e-07 GB) went, used longest ago" in caplog.text


def test_nothing_goes_within_the_limit(made, monkeypatch, caplog):
    """A limit that is kept is not spoken of."""
    folder = made("a", 400, 3)
    monkeypatch.setenv(LIMIT, "400")
    assert [] == keep_within_limit(folder)
    assert folder.exists()
    assert not caplog.text


def test_what_is_asked_for_again_is_used_again(made, monkeypatch):
    """To be read counts, not to be made."""
    first, second = made("first", 400, 9), made("second", 400, 5)
    get_or_build(first, lambda scratch: pytest.fail("made again"))
    assert [first, second] == [entry.path for entry in entries()]
    monkeypatch.setenv(LIMIT, "500")
    assert [second] == [entry.path for entry in keep_within_limit(first)]


def test_what_is_in_use_stays(made, monkeypatch, caplog):
    """The entry itself, and what another run asked for a moment ago; that the limit is passed is told."""
    asked, recent = made("asked", 400, 3), made("recent", 400, 0)
    monkeypatch.setenv(LIMIT, "10")
    assert [] == keep_within_limit(asked)
    assert asked.exists()
    assert recent.exists()
    assert f"the cache holds 8e-07 GB, above its limit of 1e-08 GB ({LIMIT})" in caplog.text


def test_what_another_process_makes_stays(made):
    """Its lock is held."""
    folder = made("busy", 400, 3)
    with sole_use(folder) as alone:
        assert alone
        assert 0 == CliRunner().invoke(main, ["cache", "--clear"]).exit_code
    assert folder.exists()


def test_the_command_lists_and_empties(made):
    """What it was made from, its size and its last use; JSON says the same."""
    folder = made("model", 5_000_000, 30)
    shown = CliRunner().invoke(main, ["cache"])
    assert 0 == shown.exit_code
    assert "model.gguf" in shown.output
    assert "1 entries of 0.005 GB; the limit is 20 GB" in shown.output
    document = json.loads(CliRunner().invoke(main, ["cache", "--json", "-"]).output)
    (entry,) = document["entries"]
    assert (str(folder), 5_000_000, False) == (entry["path"], entry["bytes"], entry["removed"])
    kept = CliRunner().invoke(main, ["cache", "--clear", "--unused-for", "2"])
    assert "0 of 0 entries removed" in kept.output
    assert folder.exists()
    cleared = CliRunner().invoke(main, ["cache", "--clear"])
    assert "1 of 1 entries removed, 0.005 GB freed" in cleared.output
    assert not folder.exists()


def test_a_cache_that_may_not_be_looked_into_says_why(made, monkeypatch):
    """The operating system's word, where it has one."""
    made("a", 400, 3)

    def refused(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(BadInput, match=r"cannot look into the cache .*: Permission denied$"):
        entries()


def test_an_empty_cache_is_listed(monkeypatch, tmp_path):
    """Nothing is made in order to say so."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    result = CliRunner().invoke(main, ["cache"])
    assert (0, "0 entries of 0.000 GB") == (result.exit_code, result.output[:21])
    assert not (tmp_path / "none").exists()
