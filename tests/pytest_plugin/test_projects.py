"""The claims run in anybody's project: whatever it configures, and wherever its tests change to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from superweight.checkpoints.cache import cache_directory, get_or_build
from superweight.core.resources import fixtures_directory
from tests.helpers.checkpoint_files import copy_checkpoint

ONE = ("-p", "no:cacheprovider", "-k", "known_place")


@pytest.fixture
def folder(pytester, monkeypatch, _imported):
    """A project without tests of the claims, and two models in it."""
    monkeypatch.delenv("CI", raising=False)
    for name, stored in (("base", "tiny-planted"), ("same", "tiny-planted")):
        copy_checkpoint(stored, pytester.path / name)
    return pytester


def test_the_shipped_claims_are_collected_whatever_a_project_calls_its_tests(folder):
    """python_files, python_functions and norecursedirs of the project are about its own tests."""
    folder.makeini(
        "[pytest]\npython_files = check_*.py\npython_functions = check_*\nnorecursedirs = * suite claims\n"
    )
    result = folder.runpytest_inprocess(*ONE, "--pyargs", "superweight.suite", "--sw-model", "./same")
    assert 1 == result.parseoutcomes().get("passed"), result.stdout.str()


def test_a_project_keeps_its_own_names_for_its_own_tests(folder):
    """Only the shipped functions are tests by our names."""
    folder.makeini("[pytest]\npython_functions = check_*\n")
    folder.makepyfile(test_own="def test_is_none(): raise AssertionError\ndef check_is_one(): pass\n")
    result = folder.runpytest_inprocess("-p", "no:cacheprovider")
    assert {"passed": 1} == result.parseoutcomes()


def test_a_test_that_changes_the_directory_moves_no_option(folder):
    """An autouse chdir: models, base, corpus, report and summary stay where they were typed."""
    folder.makeconftest(
        "import os, pytest\n"
        "@pytest.fixture(autouse=True, scope='session')\n"
        "def _elsewhere(tmp_path_factory): os.chdir(tmp_path_factory.mktemp('elsewhere'))\n"
    )
    shutil.copy(fixtures_directory().parent / "tests" / "claims" / "test_paper.py", folder.path)
    shutil.copy(fixtures_directory().parent / "tests" / "claims" / "test_release.py", folder.path)
    shutil.copytree(fixtures_directory() / "corpus", folder.path / "texts")
    result = folder.runpytest_inprocess(
        *("-p", "no:cacheprovider", "-k", "known_place or keeps_what", "--sw-model", "./same"),
        *("--sw-corpus", "texts"),
        *("--sw-base", "./base", "--sw-report", "out", "--sw-summary", "summary.md"),
    )
    result.assert_outcomes(passed=2, deselected=13)
    assert (folder.path / "out" / "report.json").is_file()
    assert "### ./same" in (folder.path / "summary.md").read_text()


@pytest.mark.parametrize("without", ["syrupy", "xdist"])
def test_a_plugin_that_is_switched_off_is_not_needed(run, without):
    """-p no:syrupy compares baselines all the same; -p no:xdist leaves its marks unused."""
    result = run(
        "--sw-model", "tiny-planted", "--strict-markers", "-p", f"no:{without}", claims="known_place"
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*C1  supported * (expected: supported, baseline)*"])


def test_without_syrupy_a_model_is_met_for_the_first_time(run, folder):
    """There is no baseline to hold it to, and none is taken for broken."""
    result = run("--sw-model", str(folder.path / "same"), "-p", "no:syrupy", claims="known_place")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*met for the first time: nothing was compared*"])


def test_without_syrupy_a_baseline_still_fails_what_differs(run, project):
    """The comparison is our own: switching the snapshot plugin off opens no gate."""
    path = project.path / "baselines" / "tiny-planted" / "cpu-float32" / "C1.json"
    path.write_text(path.read_text().replace("[1, 41, 23]", "[1, 41, 22]"))
    result = run("--sw-model", "tiny-planted", "-p", "no:syrupy", claims="known_place")
    result.assert_outcomes(failed=1)


def test_a_machine_without_a_home_keeps_its_cache_in_tmpdir(monkeypatch, tmp_path):
    """No HOME and no passwd entry, as on OpenShift: the cache lies under TMPDIR, a folder a user."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("pwd.getpwuid", _no_entry)
    assert tmp_path / f"superweight-harness-{os.getuid()}" == cache_directory()


def _no_entry(user):
    raise KeyError(f"getpwuid(): uid not found: {user}")


def as_another_user(folder, script, *arguments):
    """Run a script as a user who has no home, no name, and nothing of root's to write."""
    change = "import os; os.setgid(54321); os.setuid(54321)\n"
    left_out = ("HOME", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    return subprocess.run(
        [sys.executable, "-c", change + script, *arguments],
        env=environment | {"TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's number, which only root can")
def test_another_user_without_a_home_can_scan(tmp_path):
    """On a machine where somebody else installed: found, with a cache under TMPDIR."""
    tmp_path.chmod(0o777)
    if as_another_user(tmp_path, "import __future__, decimal, torch").returncode != 0:
        pytest.skip("what root installed here is not readable by another user")
    model = copy_checkpoint("tiny-planted", tmp_path / "model")
    script = "import sys; from superweight.cli.main import main; main(['scan', sys.argv[1]])"
    finished = as_another_user(tmp_path, script, str(model))
    assert 0 == finished.returncode, finished.stderr
    assert "[1, 41, 23]" in finished.stdout


def test_a_cache_that_cannot_be_written_gives_what_is_there(tmp_path, monkeypatch):
    """Another user's cache, read only: nothing is locked or created for what was built before."""
    monkeypatch.setattr("superweight.checkpoints.cache._locked", lambda _: pytest.fail("takes a lock"))
    (tmp_path / "model").mkdir()
    built = get_or_build(tmp_path / "model", lambda scratch: pytest.fail("builds again"))
    assert tmp_path / "model" == built
