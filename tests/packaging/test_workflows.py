"""The workflows: valid, without the weaknesses that zizmor knows, and pinned to the commit."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from superweight import __version__

REPOSITORY = Path(__file__).parents[2]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
TOOLS = Path(sys.executable).parent


def passes(tool, *arguments):
    """Whether a tool of this environment exits 0."""
    command = [str(TOOLS / tool), *map(str, arguments)]
    return 0 == subprocess.run(command, capture_output=True, check=False).returncode


def valid(path):
    return passes("check-jsonschema", "--builtin-schema", "vendor.github-workflows", path)


def sound(path):
    return passes("zizmor", "--offline", path)


def test_there_are_seven_workflows():
    """For every push, decoders to come, the site, fleets, GPUs, releases, versions of what is installed."""
    names = ["ci.yml", "decoders.yml", "docs.yml", "fleet.yml", "gpu.yml", "release.yml", "versions.yml"]
    assert names == [path.name for path in WORKFLOWS]


def test_the_workflows_are_valid_and_sound():
    """As `make lint` checks them; the action beside them too."""
    assert passes("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    assert passes("check-jsonschema", "--builtin-schema", "vendor.github-actions", REPOSITORY / "action.yml")
    assert sound(REPOSITORY / ".github")
    assert sound(REPOSITORY / "action.yml")


@pytest.mark.parametrize(
    ("check", "was", "broken"),
    [
        (valid, "runs-on: ubuntu-24.04", "runs_on: ubuntu-24.04"),
        (sound, "@08c6903cd8c0fde910a37f88322edcfb5dd907a8", "@v5"),
        (sound, "make lint", "echo ${{ github.event.pull_request.title }}"),
    ],
    ids=["misspelt", "unpinned", "injection"],
)
def test_the_checks_can_fail(tmp_path, check, was, broken):
    """A misspelt key, an action without a commit, a title pasted into a script."""
    shutil.copytree(REPOSITORY / ".github", tmp_path / ".github")
    path = tmp_path / ".github" / "workflows" / "ci.yml"
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, broken, 1))
    assert not check(path)


def test_every_action_is_pinned_to_a_commit_and_says_its_version():
    """A tag can be moved; a commit cannot. The same action has the same commit everywhere."""
    pins = {}
    for path in [*WORKFLOWS, REPOSITORY / "action.yml"]:
        for line in re.findall(r"uses: .*", path.read_text(encoding="utf-8")):
            match = re.fullmatch(r"uses: ([\w./-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", line)
            assert match, f"{path.name}: {line}"
            pins.setdefault(match[1], set()).add((match[2], match[3]))
    assert 5 == len(pins)
    assert all(1 == len(commits) for commits in pins.values())


def test_the_audit_fails_where_it_looked_up_nothing():
    """Left to itself, pip-audit exits 0 when no version could be looked up: it is told to be strict."""
    (line,) = (line for line in WORKFLOWS[0].read_text().splitlines() if "pip-audit " in line)
    assert "&& pip-audit --strict " in line


def test_only_what_writes_may_write():
    """No workflow has rights of its own; the jobs that need some name them."""
    for path in WORKFLOWS:
        assert "\npermissions: {}\n" in path.read_text(encoding="utf-8"), path.name


def test_the_issue_forms_ask_for_what_a_fault_is_found_by():
    """Both, and a pull request, ask for the versions as JSON and for the report.json; the forms are valid."""
    forms = sorted((REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*t.yml"))
    assert ["fault.yml", "verdict.yml"] == [path.name for path in forms]
    assert passes("check-jsonschema", "--builtin-schema", "vendor.github-issue-forms", *forms)
    for path in [*forms, REPOSITORY / ".github" / "pull_request_template.md"]:
        text = path.read_text(encoding="utf-8")
        assert "superweight --version --json" in text
        assert "report.json" in text


def test_the_citation_is_valid_and_of_this_version():
    """CITATION.cff keeps to its schema, and names the version of the package."""
    path = REPOSITORY / "CITATION.cff"
    assert passes("check-jsonschema", "--builtin-schema", "vendor.citation-file-format", path)
    assert f"\nversion: {__version__}\n" in path.read_text(encoding="utf-8")
