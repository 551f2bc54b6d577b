"""The wheel works without the repository: its data and its claims are inside."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built as a release builds it, with what this environment has."""
    out = tmp_path_factory.mktemp("dist")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(out),
        str(REPOSITORY),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory):
    """Run a command where the wheel is installed in a folder of its own and the repository is not seen."""
    target, here = tmp_path_factory.mktemp("target"), tmp_path_factory.mktemp("elsewhere")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True)
    # Before site-packages, in which the repository is installed for editing.
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
    environment.pop("CI", None)

    def run(*arguments):
        finished = subprocess.run(
            [sys.executable, *arguments],
            cwd=here, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return finished.returncode, finished.stdout + finished.stderr

    code, where = run("-c", "import superweight; print(superweight.__file__)")
    assert (0, str(target / "superweight" / "__init__.py")) == (code, where.strip())
    return run


def test_it_holds_the_data_and_the_claims(wheel):
    """Everything under fixtures/, and the tests of the claims, at the places they are looked for."""
    inside = set(zipfile.ZipFile(wheel).namelist())
    fixtures = {
        f"superweight/fixtures/{path.relative_to(REPOSITORY / 'fixtures').as_posix()}"
        for path in (REPOSITORY / "fixtures").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert fixtures <= inside
    assert {"superweight/suite/test_paper.py", "superweight/suite/test_release.py"} <= inside
    assert "superweight/report/templates/page.html.jinja" in inside
    assert not any(name.startswith(("tests/", "docs/")) for name in inside)


@pytest.mark.slow
def test_the_command_and_pytest_work_there(elsewhere):
    """All claims on the tiny model by the command, one by pytest with --sw-model alone, in one process."""
    script = (
        "import pytest; from superweight.cli.main import main\n"
        "main(['check', 'tiny-planted'], standalone_mode=False)\n"
        "options = ['-p', 'no:cacheprovider', '--sw-model', 'tiny-planted', '-k', 'known_place']\n"
        "raise SystemExit(pytest.main(options))"
    )
    code, said = elsewhere("-c", script)
    assert 0 == code, said
    assert "as expected: 14 of 14 claims" in said
    assert "1 passed" in said
    assert "C1  supported       (expected: supported, registry)" in said
