"""A disk that is full, or may not be written: one line, exit code 4, and what was there is there still."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.checkpoint_files import write_small_gguf

CLAIMS = Path(__file__).parents[1] / "claims"


@pytest.fixture
def disk(tmp_path):
    """Mount a disk of one mebibyte, or skip where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    words = [str(mount), "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if mount is None or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs rights that are not given here")
    yield place
    subprocess.run(["umount", str(place)], check=True)  # noqa: S607  # found by the same PATH


def fill(disk, *, leave=0):
    """Fill a disk but for so many bytes."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "filler").write_bytes(bytes(max(0, free - leave)))


def contents(root):
    return {
        path.relative_to(root): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.suffix != ".lock" and path.name != "filler"
    }


def refused(result, *said):
    lines = [line for line in result.stderr.splitlines() if line.startswith("superweight: ")]
    assert (4, 1) == (result.exit_code, len(lines)), result.output
    assert all(word in lines[0] for word in said), lines[0]


def test_a_copy_that_does_not_fit_leaves_nothing(superweight, disk, tmp_path, monkeypatch):
    """A GGUF file of 0.8 MB becomes a copy that a disk of 1 MiB has no room for any more."""
    write_small_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
    fill(disk, leave=2**17)
    refused(superweight("scan", str(tmp_path / "tiny.gguf")), str(disk))
    assert {} == contents(disk)
    (disk / "filler").unlink()
    assert 0 == superweight("scan", str(tmp_path / "tiny.gguf")).exit_code


@pytest.fixture
def old_report(disk):
    """A report that is there already, on the small disk."""
    out = disk / "report"
    out.mkdir()
    (out / "report.json").write_text("old")
    (out / "report.html").write_text("old")
    return out


@pytest.mark.usefixtures("drawn_once")
@pytest.mark.parametrize("leave", [0, 2**12, 2**15, 2**17])
def test_a_report_that_does_not_fit_leaves_the_old_one(superweight, disk, old_report, tmp_path, leave):
    """The page and the figures are all new or all old, whether little or nothing was free."""
    found = tmp_path / "found.json"
    assert 0 == superweight("check", "tiny-plain", "--json", str(found)).exit_code
    fill(disk, leave=leave)
    refused(superweight("report", str(found), "--output", str(old_report)), str(old_report))
    assert {b"old"} == set(contents(disk).values())


@pytest.mark.usefixtures("drawn_once")
def test_a_check_whose_report_does_not_fit_leaves_the_old_one(superweight, disk, old_report):
    """Its report.json included, which is the first that would have fitted."""
    fill(disk, leave=2**15)
    refused(superweight("check", "tiny-planted", "--report", str(old_report)), str(old_report))
    assert {b"old"} == set(contents(disk).values())


def test_a_result_that_does_not_fit_leaves_the_old_one(superweight, disk):
    """The file of --json, with no byte free."""
    (disk / "scan.json").write_text("old")
    fill(disk)
    refused(superweight("scan", "tiny-planted", "--json", str(disk / "scan.json")), str(disk))
    assert {b"old"} == set(contents(disk).values())


def test_a_baseline_that_does_not_fit_leaves_the_old_one(run, disk, project):
    """An update with no byte free turns the run red, and loses no baseline."""
    shutil.copytree(CLAIMS / "baselines" / "tiny-plain", disk / "tiny-plain")
    for path in disk.rglob("C*.json"):
        path.write_text(path.read_text().replace('"not applicable"', '"refuted"', 1))
    before = contents(disk)
    fill(disk)
    result = run("--sw-model", "tiny-plain", "--sw-baselines", str(disk), "--snapshot-update")
    assert pytest.ExitCode.OK != result.ret
    after = {path: content for path, content in contents(disk).items() if path.suffix == ".json"}
    assert before == after


def test_a_cache_that_may_only_be_read_is_refused(superweight, disk, tmp_path, monkeypatch):
    """What is in it is used; what is not cannot be put there, and the line says what to do."""
    write_small_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)  # noqa: S607  # as above
    refused(superweight("scan", str(tmp_path / "tiny.gguf")), "XDG_CACHE_HOME")
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)  # noqa: S607  # as above
    assert 0 == superweight("scan", str(tmp_path / "tiny.gguf")).exit_code
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)  # noqa: S607  # as above
    assert 0 == superweight("scan", str(tmp_path / "tiny.gguf")).exit_code
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)  # noqa: S607  # as above
