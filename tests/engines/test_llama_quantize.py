"""llama.cpp's own `llama-quantize`, where it is on the PATH: the recipe is obeyed, and our files are its.

PyPI has no wheel with that program, and its source in llama-cpp-python's: docs/protect.md builds it.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess

import gguf
import numpy as np
import pytest

from benchmarks.engine_files import KINDS, write_as
from superweight.checkpoints.model_ref import parse_model
from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import fetch
from superweight.release.compare import CompareRequest, compare
from superweight.release.result import ACTIVATIONS, DAMAGED, KEPT, STATIC
from superweight.remedy.recipes import Protected, tool
from tests.helpers.planted_gguf import crowded_in_gguf, write_tiny_gguf

PROGRAM = shutil.which("llama-quantize")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no llama-quantize on the PATH: docs/protect.md builds it"),
]


def quantise(source, target, kind, *options):
    command = [str(PROGRAM), *options, str(source), str(target), kind, "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    return target


def verdict(base, release):
    pair = parse_model(f"tiny-planted={base}"), parse_model(str(release))
    return compare(CompareRequest(*pair, depths=(STATIC, ACTIVATIONS))).verdict


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_the_recipe_keeps_the_super_weight(kind, tmp_path):
    """Told what `protect` prints, for other files and another type: plain is damaged, protected is kept."""
    source = write_tiny_gguf(tmp_path / "base.gguf", changed=crowded_in_gguf())
    recipe = tool("llama.cpp").recipe([Protected("model.layers.1.mlp.down_proj", "blk.1.ffn_down")])
    program, *options, _, _, _ = shlex.split(recipe.text)
    assert "llama-quantize" == program
    found = {}
    for how, told in (("plain", []), ("protected", options)):
        found[how] = verdict(source, quantise(source, tmp_path / f"{how}.gguf", kind, *told))
    assert {"plain": DAMAGED, "protected": KEPT} == found
    rounded = {tensor.name: tensor.tensor_type.name for tensor in tensors(tmp_path / "protected.gguf")}
    assert ["blk.1.ffn_down.weight"] == [name for name, each in rounded.items() if each == "F16"]


def tensors(path):
    return gguf.GGUFReader(path).tensors


@pytest.mark.checkpoint
@pytest.mark.parametrize("kind", KINDS)
def test_files_of_the_benchmarks_are_those_of_the_program(kind, tmp_path):
    """Each tensor of the real model in the same type, and the same bytes."""
    source = write_as(fetch(resolve("smollm2-135m-instruct-q4_1")).path, tmp_path / "F32.gguf", "F32")
    ours = write_as(source, tmp_path / "ours.gguf", kind)
    theirs = quantise(source, tmp_path / "theirs.gguf", kind)
    one, other = ({tensor.name: tensor for tensor in tensors(path)} for path in (ours, theirs))
    assert one.keys() == other.keys()
    types = {name: (one[name].tensor_type.name, other[name].tensor_type.name) for name in one}
    assert {} == {name: pair for name, pair in types.items() if pair[0] != pair[1]}
    assert [] == [name for name in one if not np.array_equal(one[name].data, other[name].data)]
