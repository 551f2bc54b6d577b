"""Every command of the pages: run where it can run here, and else known to be one that would be taken."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib

import click
import hypothesis  # noqa: F401  # or its plugin imports it anew in every run within a run
import pytest

# Pytester forgets what is first imported inside a run, and classes would exist twice.
from click.testing import CliRunner

from superweight.checkpoints.registry import load_registry
from superweight.cli.main import main
from tests.fleet.rows import index, named
from tests.helpers.checkpoint_files import copy_checkpoint, rewrite
from tests.helpers.planted_release import DOWN
from tools.site_pages import paths

from .commands import PAGES, REPOSITORY, shown

COMMANDS = shown()
REAL = "smollm2-135m-instruct-q4_1"
# What a reader has at hand, by the name that the pages give it.
AT_HAND = {
    "my-model": "tiny-planted",
    "release": "tiny-tuned",
    "org/base": "tiny-planted",
    "org/name": "tiny-planted",
    "damaged": "tiny-planted",
}


# What may follow "models --verify" and asks the hub.
NAMES_THE_HUB = ((), ("org/name",), ("--scan",))
PROPERTIES = "tests/claims/test_properties.py"


def needs(command):
    """What a command needs that is not here: the hub, a GPU, or the harness's own tests, which run anyway."""
    text = str(command)
    if command.synopsis:
        return "a form"
    if command.arguments[:1] == ("fleet",):
        return "a fleet, which tests/fleet runs"
    if "gpu" in text:
        return "a GPU"
    names = [name for name, entry in load_registry().items() if entry.tier == "gpu"]
    if any(name in text for name in names) or "hf://" in text:
        return "the hub"
    if command.program == "pytest" and "--sw-model" not in text:
        return "the harness's own tests"
    # Verifying everything waits for the hub; naming org/name asks the hub too.
    if command.arguments[:2] == ("models", "--verify") and command.arguments[2:] in NAMES_THE_HUB:
        return "the hub"
    if command.arguments == ("read", "org/name", "--directory"):
        return "something published"
    return None


def of(program):
    return [command for command in COMMANDS if command.program == program]


def marks(command):
    """Mark what reads the real model; what runs it takes seconds, what judges or sweeps all of it minutes."""
    if REAL not in str(command):
        return []
    long = command.arguments[0] in ("scan", "check", "sweep", PROPERTIES)
    return [pytest.mark.checkpoint, *([pytest.mark.slow] if long else [])]


def runnable(program):
    return [
        pytest.param(command, id=str(command), marks=marks(command))
        for command in of(program)
        if needs(command) is None
    ]


def test_the_pages_show_commands():
    """The collector finds those of every kind, and none that it cannot place."""
    modules = {"tools.gpu_figures", "tools.architecture_table", "tools.forms_table"}
    modules |= {"benchmarks", "benchmarks.fleet", "benchmarks.truth", "benchmarks.plain"}
    known = {"superweight", "pytest", "make", "pip", "venv", *modules}
    assert {command.program for command in COMMANDS} <= known
    assert 25 < len(COMMANDS)
    # A command counts for the first page that shows it.
    assert {"README.md", "gpu.md", "models.md", "adding-a-model.md"} <= {item.page for item in COMMANDS}


def write_indexes(folder):
    """Write the indexes of fleets that the pages name."""
    (folder / "night").mkdir()
    for name in ("night/index.json", "monday.json", "tuesday.json"):
        (folder / name).write_bytes(index(named("org/name")))


@pytest.fixture
def project(pytester, monkeypatch):
    """A directory with what a reader has: the claims, and models under the names of the pages."""
    monkeypatch.delenv("CI", raising=False)
    for name, stored in AT_HAND.items():
        copy_checkpoint(stored, pytester.path / name)
    rewrite(pytester.path / "damaged", lambda tensors: tensors[DOWN][41].__setitem__(23, 0.0))
    write_indexes(pytester.path)
    claims = pytester.path / "tests" / "claims"
    claims.mkdir(parents=True)
    for file in ("test_paper.py", "test_properties.py"):
        shutil.copy(REPOSITORY / "tests" / "claims" / file, claims)
    shutil.copytree(REPOSITORY / "tests" / "claims" / "baselines", claims / "baselines")
    return pytester


@pytest.mark.parametrize("command", of("superweight"), ids=str)
def test_superweight_takes_it(command, tmp_path, monkeypatch):
    """The command is there, and has every option that the page gives it."""
    monkeypatch.chdir(tmp_path)
    write_indexes(tmp_path)
    name, *arguments = command.arguments
    sub = main.commands[name]
    options = {option: item for item in sub.params for option in item.opts if option.startswith("-")}
    words = [word.strip("[]") for word in arguments]
    if command.synopsis:
        assert {word for word in words if word.startswith("--")} <= options.keys()
        return
    with click.Context(sub) as context:
        sub.parse_args(context, list(arguments))


@pytest.mark.parametrize("command", runnable("superweight"))
def test_superweight_runs_it(command, project):
    """Verbatim, in a directory with the models of the page: it does what it says and is satisfied."""
    result = CliRunner().invoke(main, command.arguments)
    # A comparison may find damage: the tuned stand-in is another model than its base.
    allowed = {0, 1} if "compare" in command.arguments else {0}
    assert result.exit_code in allowed, result.output
    assert result.stdout


@pytest.mark.parametrize("command", of("pytest"), ids=str)
def test_pytest_takes_it(command, pytester):
    """Every option parses, and every file it names is there."""
    config = pytester.parseconfig(*command.arguments)
    for place in config.args:
        if place not in ("superweight.suite", str(pytester.path)):
            assert (REPOSITORY / place.partition("::")[0]).exists(), place


@pytest.mark.parametrize("command", runnable("pytest"))
def test_pytest_runs_it(command, project):
    """Verbatim, on the models of the page, with one claim of the twelve: nothing fails."""
    whole = "-k" in command.arguments or PROPERTIES in command.arguments
    narrowed = [] if whole else ["-k", "known_place"]
    result = project.runpytest_inprocess("-p", "no:cacheprovider", *command.arguments, *narrowed)
    passed = result.parseoutcomes()
    assert (pytest.ExitCode.OK, True) == (result.ret, passed.get("passed", 0) > 0)


@pytest.mark.parametrize("command", of("make"), ids=str)
def test_make_knows_it(command):
    """Every target that a page names is in the Makefile."""
    if command.synopsis:
        pytest.skip("a form")
    finished = subprocess.run(
        ["make", "--dry-run", *command.arguments],  # noqa: S607  # the reader's make
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == finished.returncode, finished.stderr


@pytest.mark.parametrize("module", [command.program for command in COMMANDS if "." in command.program])
def test_python_finds_the_module(module):
    """What is started with ``python -m`` is a module of the repository."""
    assert (REPOSITORY / f"{module.replace('.', '/')}.py").is_file()


@pytest.mark.parametrize("command", of("pip"), ids=str)
def test_pip_finds_what_it_is_to_install(command):
    """The extras that a page names are the project's, and the constraints are there."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert ("install", "-c", "constraints.txt") == command.arguments[:3]
    (extras,) = re.findall(r"\.\[([\w,]+)\]", str(command))
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    assert (REPOSITORY / "constraints.txt").is_file()


def test_every_command_is_run_or_needs_what_is_not_here():
    """Nothing is left out unseen: what is only parsed needs the hub, a GPU, or stands for a form."""
    reasons = {
        "a form",
        "a GPU",
        "the hub",
        "the harness's own tests",
        "something published",
        "a fleet, which tests/fleet runs",
        None,
    }
    assert {needs(command) for command in COMMANDS} <= reasons
    assert 8 <= sum(needs(command) is None for command in of("superweight") + of("pytest"))


def test_links_between_pages_lead_somewhere():
    """Every relative link of a page is a file of the repository, or a page that the site generates."""
    generated = {REPOSITORY / "docs" / path for path in paths()}
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            place = page.parent / target
            assert place.exists() or place in generated, f"{page.name}: {target}"


def test_the_files_that_the_pages_name_are_there():
    """A module that was moved takes its name in the pages along."""
    named = re.compile(r"(?:harness|tests|tools|benchmarks|fixtures|examples)/[\w./-]+\.(?:py|toml|json|yml)")
    pages = {str(page.relative_to(REPOSITORY)): page.read_text() for page in PAGES}
    found = {(page, path) for page, text in pages.items() for path in named.findall(text)}
    assert len(found) > 20
    assert set() == {(page, path) for page, path in found if not (REPOSITORY / path).exists()}


def test_the_readme_is_read_in_a_minute():
    """Under 120 lines, with a picture of the page and the two commands."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    assert "](docs/images/report-light.png)" in text
    assert {"make check", "make test"} <= {line.strip() for line in text.splitlines()}
