"""Files and algebra load no model library, and docs/code.md names the modules where they are."""

from __future__ import annotations

import ast
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import superweight
from superweight.core.environment import DEVICES
from superweight.pytest_plugin import options

PACKAGE = Path(superweight.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "code.md"
HEAVY = ("torch", "transformers", "accelerate")
LIGHT = [
    "superweight.detection.detect",
    "superweight.detection.trace",
    "superweight.claims.verdict",
    *(
        module.name
        for wing in ("core", "checkpoints")
        for module in pkgutil.walk_packages([str(PACKAGE / wing)], f"superweight.{wing}.")
    ),
]


def loaded_by(modules):
    """The first module of a list that brings each heavy library, in a fresh interpreter."""
    program = f"""
import importlib, json, sys
found = {{}}
for name in {modules!r}:
    importlib.import_module(name)
    for heavy in {HEAVY!r}:
        if heavy in sys.modules:
            found.setdefault(heavy, name)
print(json.dumps(found))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


def test_files_and_algebra_load_no_model_library():
    """Neither core nor checkpoints, nor the criteria and the verdict, import torch, however indirectly."""
    assert 30 < len(LIGHT)
    assert {} == loaded_by(LIGHT)


def test_what_runs_a_model_is_noticed():
    """The same look finds torch where a module does load it; this one loads nothing slower."""
    assert {"torch": "superweight.quantization.granularity"} == loaded_by(
        ["superweight.detection.detect", "superweight.quantization.granularity"]
    )


ROWS = re.findall(r"^\| (?:door )?`(\w+)/?` \| [^|]+ \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.M)


def test_the_page_has_a_row_for_every_wing():
    """Wings and doors are the folders of the package, and the modules beside them."""
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders | {"api", "strategies", "training"} == {wing for wing, _ in ROWS}


@pytest.mark.parametrize(
    ("wing", "modules"), [row for row in ROWS if row[0] not in ("api", "strategies", "training")]
)
def test_the_page_names_modules_that_are_there(wing, modules):
    """What a row names lies in the folder of its wing, or in a folder there that the row names."""
    there = {path.name for path in (PACKAGE / wing).rglob("*")} | {
        path.stem for path in (PACKAGE / wing).rglob("*.py")
    }
    named = {name.rstrip("/") for name in re.findall(r"`([a-z_./]+)`", modules)}
    assert set() == named - there


def test_the_plugin_s_options_import_nothing_of_ours():
    """They are defined before it is known whose package has our name."""
    tree = ast.parse((PACKAGE / "pytest_plugin" / "options.py").read_text(encoding="utf-8"))
    imported = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imported
    assert [] == [line for line in imported if "superweight" in line]


def test_the_plugin_takes_the_devices_of_the_command():
    """What cannot be imported there is written down once more."""
    assert DEVICES == options.DEVICES
