"""Installed, the plugin disturbs nobody: projects with folders and settings of their own run their tests."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from superweight import __version__

# Its wheels are built once, by one worker.
pytestmark = pytest.mark.xdist_group("wheels")

REPOSITORY = Path(__file__).parents[2]
OURS = {"superweight", "pytest_superweight.py", f"superweight_harness-{__version__}.dist-info"}

A_TEST = "def test_own():\n    assert True\n"


def _scripts(environment):
    return environment / ("Scripts" if os.name == "nt" else "bin")


def _site_packages(environment):
    paths = sysconfig.get_paths(vars={"base": str(environment), "platbase": str(environment)})
    return Path(paths["purelib"])


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The standard and the editable wheel, built by the backend itself."""
    out = tmp_path_factory.mktemp("wheels")
    build = (
        "import sys; from hatchling import build\n"
        "for kind in ('wheel', 'editable'):\n"
        "    print(getattr(build, 'build_' + kind)(sys.argv[1] + '/' + kind))"
    )
    for kind in ("wheel", "editable"):
        (out / kind).mkdir()
    command = [sys.executable, "-c", build, str(out)]
    built = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    names = built.stdout.split()
    return {kind: out / kind / name for kind, name in zip(("wheel", "editable"), names, strict=True)}


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory):
    """An environment with the wheel installed: everything that this one has, and no repository."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False, symlinks=os.name != "nt")
    site = _site_packages(environment)
    for each in Path(sysconfig.get_paths()["purelib"]).iterdir():
        # Of .pth files one leads to the repository, which nobody else has.
        if each.suffix != ".pth" and "superweight" not in each.name and each.name != "__pycache__":
            (site / each.name).symlink_to(each)
    before = {each.name for each in site.iterdir()}
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--python", str(_scripts(environment) / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, *options, str(wheels["wheel"])], check=True, capture_output=True)
    added = {each.name for each in site.iterdir()} - before - {"__pycache__"}
    assert added == OURS
    return environment


@pytest.fixture
def project(installed, tmp_path):
    """Write a project's files and run ``python -m pytest`` in it, which puts the project first."""

    def run(files, *options):
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content, encoding="utf-8")
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST", "PYTHON")) and name != "CI"
        }
        finished = subprocess.run(
            [str(_scripts(installed) / "python"), "-m", "pytest", "-p", "no:cacheprovider", *options],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return finished.returncode, finished.stdout + finished.stderr

    return run


def test_nothing_else_is_installed(wheels):
    """The wheel brings the package, the entry point and their metadata; an editable one a path alone."""
    inside = {kind: set(zipfile.ZipFile(path).namelist()) for kind, path in wheels.items()}
    assert {name.split("/")[0] for name in inside["wheel"]} == OURS
    importable = {name for name in inside["editable"] if ".dist-info/" not in name}
    assert {"_superweight_harness.pth"} == importable
    added = zipfile.ZipFile(wheels["editable"]).read(importable.pop()).decode().split()
    assert {str(REPOSITORY / "harness")} == set(added)
    assert {"superweight", "pytest_superweight.py"} == {
        each.name for each in (REPOSITORY / "harness").iterdir() if each.name != "__pycache__"
    }


@pytest.mark.parametrize("folder", ["harness", "tests", "fixtures"])
def test_a_project_has_packages_named_as_our_folders(project, folder):
    """They are imported, and none of ours: by ``pythonpath``, and by ``python -m pytest``."""
    code, said = project(
        {
            f"{folder}/__init__.py": "",
            f"{folder}/own.py": "MINE = True\n",
            "checks/test_own.py": f"from {folder}.own import MINE\n\n" + A_TEST.replace("True", "MINE"),
            "pytest.ini": "[pytest]\npythonpath = .\n",
        },
        "checks",
    )
    assert 0 == code, said
    assert "1 passed" in said
    assert "stands aside" not in said


@pytest.mark.parametrize(
    ("place", "setting"),
    [("superweight.py", ""), ("superweight/__init__.py", ""), ("src/superweight.py", "pythonpath = src\n")],
)
def test_a_project_has_the_name_of_the_package(project, place, setting):
    """Its own is imported, its tests run, and one line says that the plugin stands aside."""
    code, said = project(
        {
            place: "MINE = True\n",
            "test_own.py": "from superweight import MINE\n\n" + A_TEST.replace("True", "MINE"),
            "pytest.ini": f"[pytest]\n{setting}filterwarnings = error\n",
        }
    )
    assert 0 == code, said
    assert "1 passed" in said
    (warning,) = [line for line in said.splitlines() if "stands aside" in line]
    assert warning.startswith("warning: superweight stands aside: ")


def test_such_a_project_cannot_use_the_plugins_options(project):
    """They are refused in one line with the exit code of bad input, and no test runs."""
    code, said = project({"superweight.py": "", "test_own.py": A_TEST}, "--sw-model", "tiny-planted")
    assert 4 == code
    (line,) = [line for line in said.splitlines() if line.strip()]
    assert line.startswith("ERROR: --sw-model cannot be used here: ")
    assert line.endswith(
        "superweight.py has the name of this plugin's package; run it outside of this project"
    )


def test_a_project_turns_every_warning_into_an_error(project):
    """Its tests run under ``filterwarnings = error``, strict markers and strict configuration."""
    code, said = project(
        {
            "test_own.py": A_TEST,
            "pytest.ini": "[pytest]\nfilterwarnings = error\naddopts = --strict-markers --strict-config\n",
        }
    )
    assert 0 == code, said
    assert "1 passed" in said


def test_without_options_no_model_library_is_imported(project):
    """A project that asks nothing of the plugin pays for neither torch nor transformers."""
    code, said = project(
        {
            "test_own.py": "import sys\n\n\ndef test_light():\n"
            "    assert not {'torch', 'transformers', 'accelerate', 'matplotlib'} & set(sys.modules)\n"
        }
    )
    assert 0 == code, said
