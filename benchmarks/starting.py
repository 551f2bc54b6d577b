"""Starting up: what the plugin and the commands cost before any model is there."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import Row, aimed, in_turn, spread

MODEL = "smollm2-135m-instruct-q4_1"
_TORCH_FREE = """
import sys
from superweight.cli.main import main
main({arguments}, standalone_mode=False)
assert "torch" not in sys.modules
"""
_IMPORTS = "from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel"


def _run(*command: str, directory: str | None = None) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr}")


def rows(repeats: int = 7) -> list[Row]:
    """Return the lines on starting up; every command is a process of its own."""
    group = "starting up"
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "test_nothing.py").write_text("def test_nothing():\n    pass\n")
        collect = (sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider")
        seconds = in_turn(
            {
                "with": lambda: _run(*collect, directory=directory),
                "without": lambda: _run(*collect, "-p", "no:superweight", directory=directory),
            },
            repeats,
        )
    both = zip(seconds["with"], seconds["without"], strict=True)
    added = spread([(one - other) * 1000 for one, other in both])
    what = "milliseconds that the plugin adds to pytest --collect-only"
    found = [aimed(group, what, added.median, most=50, figure=str(added))]
    for arguments in (["models"], ["read", MODEL, "--directory"]):
        code = _TORCH_FREE.format(arguments=arguments)
        taken = in_turn({"run": lambda code=code: _run(sys.executable, "-c", code)}, 3)["run"]
        what = f"seconds of superweight {arguments[0]}, which imports no torch"
        found.append(Row(group, what, str(spread(taken))))
    imports = spread(in_turn({"run": lambda: _run(sys.executable, "-c", _IMPORTS)}, 3)["run"])
    found.append(
        Row(group, "seconds of importing what loads a model, transformers' and torch's", str(imports))
    )
    for name, most in (("scan", 4), ("check", 20)):
        command = (str(Path(sys.executable).with_name("superweight")), name, MODEL)
        taken = spread(in_turn({"run": lambda command=command: _run(*command)}, 3, warm=False)["run"])
        what = f"seconds of superweight {name} on the cached real model"
        found.append(aimed(group, what, taken.median, most=most, figure=str(taken)))
    return found
