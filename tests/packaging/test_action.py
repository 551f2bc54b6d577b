"""The GitHub action: its script runs the gate, keeps its exit code, and treats inputs as data."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ACTION = yaml.safe_load((Path(__file__).parents[2] / "action.yml").read_text(encoding="utf-8"))


@pytest.fixture
def step(tmp_path):
    """Run the comparing step with a stand-in for the command that exits as told."""
    (script,) = (step["run"] for step in ACTION["runs"]["steps"] if step.get("id") == "compare")
    command = tmp_path / "superweight" / "bin" / "superweight"
    command.parent.mkdir(parents=True)
    bash = shutil.which("bash")

    def run(code, **inputs):
        command.write_text(
            f'#!{bash}\nprintf "%s\\n" "$@" > {tmp_path}/arguments\necho "### table"\nexit {code}\n'
        )
        command.chmod(0o755)
        given = {
            "BASE": "org/base",
            "RELEASE": "./release",
            "DEPTH": "all",
            "LIMITS": "",
            "REQUIRE": "",
            "FAIL_ON": "",
            **inputs,
        }
        files = {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary"), "GITHUB_OUTPUT": str(tmp_path / "output")}
        environment = {**os.environ, **given, **files, "RUNNER_TEMP": str(tmp_path)}
        result = subprocess.run(
            [bash, "-e", "-o", "pipefail", "-c", script], env=environment, cwd=tmp_path, check=False
        )
        output = tmp_path / "output"
        said = output.read_text() if output.exists() else ""
        return result.returncode, (tmp_path / "summary").read_text(), said

    return run


@pytest.mark.parametrize(
    ("code", "verdict"),
    [(0, "verdict=kept\n"), (1, "verdict=damaged\n"), (3, "verdict=cannot be judged\n"), (4, ""), (70, "")],
    ids=["kept", "damaged", "cannot be judged", "bad input", "unforeseen"],
)
def test_the_exit_code_and_the_summary_reach_the_job(step, code, verdict):
    """A damaged release fails the job, with the table in its summary."""
    assert (code, "### table\n", verdict) == step(code)


def test_an_input_is_no_command(step, tmp_path):
    """Quotes, spaces and substitutions in a model's name are passed on as they are."""
    name = 'x"; touch stolen; $(touch stolen) #'
    step(0, RELEASE=name, LIMITS="a b.toml")
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert ["compare", "org/base", name, "--depth", "all"] == arguments[:5]
    assert ["--limits", "a b.toml"] == arguments[-2:]
    assert not (tmp_path / "stolen").exists()


def test_no_input_is_pasted_into_a_script():
    """Expressions stand in env, never in run: what is pasted there would be executed."""
    assert [] == [step["name"] for step in ACTION["runs"]["steps"] if "${{" in step.get("run", "")]
