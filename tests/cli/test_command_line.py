"""The ``superweight`` command: its contracts and its exit codes."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from superweight import __version__
from superweight.cli.main import main, run
from superweight.core.resources import fixtures_directory

REPOSITORY = Path(__file__).parents[2]


def test_scan_writes_the_contract(superweight):
    """The JSON has the keys other tools rely on, and the planted coordinate."""
    document = json.loads(superweight("scan", "tiny-planted", "--json", "-").stdout)
    (weight,) = document["super_weights"]
    assert (1, 41, 23, 4.0) == (weight["layer"], weight["row"], weight["col"], weight["value"])
    assert (1, "suppressed", 1) == (document["passes"], document["stop_reason"], weight["rank"])
    assert {"largest", "share"} == document["head_room"].keys()
    keys = {"layer", "row", "col", "value", "input", "output", "share", "part", "gain", "token", "rank"}
    assert keys == weight.keys()
    assert {"channel", "token", "onset", "last", "magnitude"} == document["super_activations"][0].keys()


def test_scan_of_a_model_without_super_weights_succeeds(superweight):
    """Finding nothing is a result."""
    result = superweight("scan", "tiny-plain")
    assert 0 == result.exit_code
    assert "none found after 1 pass" in result.stdout


def test_check_as_expected_exits_0(superweight, tmp_path):
    """All claims, with a table and a report."""
    result = superweight("check", "tiny-planted", "--report", str(tmp_path))
    assert 0 == result.exit_code, result.output
    assert "as expected: 14 of 14 claims" in result.stdout
    assert (tmp_path / "report.html").is_file()


def test_check_not_as_expected_exits_1(superweight):
    """The plain twin under the planted model's name: red, with what changed and what to do."""
    plain = fixtures_directory() / "checkpoints" / "tiny-plain"
    result = superweight("check", f"tiny-planted={plain}")
    assert 1 == result.exit_code
    assert "[1, 41, 23] is published but not found" in result.stdout
    assert "next" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("scan", "nowhere"),
        ("scan", "./missing.gguf"),
        ("check", "tiny-planted", "--corpus", "/no/such/file"),
        ("check", "tiny-planted", "--base", "nowhere"),
        ("scan", "tiny-planted", "--json", "/no/such/dir/out.json"),
        ("scan",),
        ("scan", "tiny-planted", "--device", "abacus"),
        ("fly",),
    ],
)
def test_bad_input_is_one_line_and_exit_4(superweight, arguments):
    """What is wrong, on one line, and no traceback."""
    result = superweight(*arguments)
    assert 4 == result.exit_code, result.output
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("  ")]
    assert line.startswith("superweight: ")


def test_a_process_of_the_command_neither_begins_nor_ends_in_the_collector():
    """The installed command sets the collector aside; in somebody else's process it is left as it was."""
    script = (
        "import atexit, gc, sys\n"
        "from superweight.cli.main import main, run\n"
        "before = gc.get_threshold()\n"
        "main(['models'], standalone_mode=False)\n"
        "print(gc.get_threshold() == before)\n"
        "atexit.register(lambda: print(gc.get_threshold()[0] > 10_000, gc.get_freeze_count()))\n"
        "sys.argv = ['superweight', 'models']\n"
        "atexit.register(lambda: print('before'))\n"
        "run()\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "True" in finished.stdout.splitlines()
    # Called last in, first out: what `run` registered is done before the others.
    last, frozen = finished.stdout.splitlines()[-2:]
    assert "before" == last
    assert frozen.startswith("True ")
    assert not frozen.endswith(" 0")


def test_the_installed_command_is_that_one():
    """The command that pip writes is `run`."""
    (command,) = entry_points(group="console_scripts", name="superweight")
    assert run is command.load()


def test_models_lists_the_registry_without_torch():
    """The table names the models; nothing heavy is imported for it."""
    script = (
        "import sys; from superweight.cli.main import main; main(['models'], standalone_mode=False); "
        "print('torch' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Mistral-7B-v0.1" in finished.stdout
    assert "False" == finished.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["check", "tiny-pla"], ["tiny-planted", "tiny-plain"]),
        (["check", "tiny-tuned", "--base", "tiny-t"], ["tiny-tuned"]),
        (["compare", "tiny-tuned", "smol"], ["smollm2-135m-instruct-q4_1"]),
        (["sweep", "./rel"], ["./rel"]),
    ],
)
def test_a_shell_completes_models(words, offered):
    """Names of the registry; where none begins like that the shell is told to look for files."""
    completing = ShellComplete(main, {}, "superweight", "_SUPERWEIGHT_COMPLETE")
    found = completing.get_completions(words[:-1], words[-1])
    assert set(offered) == {item.value for item in found}
    assert ("file" if words[-1].startswith(".") else "plain") == found[0].type


def test_the_plugin_does_not_import_torch():
    """A project that does not use the harness pays nothing for it."""
    script = (
        "import sys, superweight.pytest_plugin.plugin\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "False False" == finished.stdout.strip()


def test_the_version_as_json_names_what_a_report_of_a_fault_needs(superweight):
    """In either order of the two options: the harness, Python, the machine's kind, and every package."""
    one, other = superweight("--version", "--json"), superweight("--json", "--version")
    document = json.loads(one.stdout)
    assert (0, one.stdout) == (one.exit_code, other.stdout)
    assert (__version__, version("torch")) == (document["superweight"], document["packages"]["torch"])
    assert {"superweight", "python", "platform", "cores", "packages"} == document.keys()
    assert f"superweight, version {__version__}\n" == superweight("--version").stdout


def test_the_versions_say_nothing_of_the_user(superweight):
    """No name of the machine, no user, no path: it is pasted into public issues."""
    printed = superweight("--version", "--json").stdout
    assert platform.node() not in printed
    assert str(Path.home()) not in printed
    assert "/" not in printed


@pytest.mark.parametrize("arguments", [("--json",), ("--json", "models"), ("--bogus",)], ids=" ".join)
def test_an_option_before_the_command_that_is_none_exits_4(superweight, arguments):
    """One line on stderr, as of every bad input; click alone would exit with 2."""
    result = superweight(*arguments)
    assert (4, "") == (result.exit_code, result.stdout)
    assert 1 == len(result.stderr.splitlines())


def test_a_plan_is_printed_and_nothing_is_measured(superweight, tmp_path):
    """Steps, token-blocks, seconds and memory, as a table and as JSON; exit code 0."""
    result = superweight("check", "tiny-planted", "--plan", "--json", str(tmp_path / "plan.json"))
    assert 0 == result.exit_code, result.output
    assert "looks that" in result.stdout
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert {"seconds", "token_blocks", "memory", "steps"} < plan.keys()
    assert "supported" not in result.stdout


def test_what_a_budget_leaves_out_exits_3_and_is_no_damage(superweight):
    """The cheapest claims are judged as expected; the rest says what it would need."""
    result = superweight("check", "tiny-planted", "--budget", "0.001s")
    assert 3 == result.exit_code, result.output
    assert "not judged within the budget: C2, C3" in result.stdout
    assert "as expected: 2 of 14 claims" in result.stdout


def test_a_budget_that_is_none_is_bad_input(superweight):
    """In one line, before anything is loaded."""
    result = superweight("check", "tiny-planted", "--budget", "soon")
    assert 4 == result.exit_code
    assert "'soon' is no length of time; give 60s, 10min or 1h" in result.stderr
