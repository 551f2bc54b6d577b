"""Pickled weights are trusted by name, and then by every command alike."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from superweight.checkpoints.registry import resolve
from superweight.core.resources import fixtures_directory
from tests.helpers.checkpoint_files import copy_checkpoint

CHECKPOINTS = fixtures_directory() / "checkpoints"


@pytest.fixture(scope="module")
def pickled(tmp_path_factory):
    """The planted model, its weights pickled as they were before safetensors."""
    folder = tmp_path_factory.mktemp("pickled") / "release"
    copy_checkpoint("tiny-planted", folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def ran(superweight):
    """Run a command, and return its exit code and all that it said."""

    def run(*words):
        result = superweight(*map(str, words))
        return result.exit_code, " ".join(result.output.split())

    return run


@pytest.mark.parametrize("depth", ["static", "all"])
def test_compare_refuses_until_trusted(ran, pickled, depth):
    """The refusal names the option, as scan does."""
    code, said = ran("compare", "tiny-planted", pickled, "--depth", depth)
    assert 4 == code
    assert "holds only pickled weights (pytorch_model.bin), and unpickling runs code" in said
    assert "--trust pickle" in said


def test_compare_takes_the_trust_that_it_recommends(ran, pickled):
    """The files are not read without loading them, which is no damage; the forward pass decides."""
    code, said = ran("compare", "tiny-planted", pickled, "--trust", "pickle", "--depth", "activations")
    assert 0 == code, said
    assert "kept" in said
    code, said = ran("compare", "tiny-planted", pickled, "--trust", "pickle")
    assert "are not read without loading them" in said
    assert "damaged" not in said


def test_a_pickled_base_is_no_hindrance(ran, pickled, tmp_path):
    """Which of the two is pickled makes no difference."""
    copy_checkpoint("tiny-planted", tmp_path / "release")
    code, said = ran("compare", pickled, tmp_path / "release", "--trust", "pickle", "--depth", "activations")
    assert 0 == code, said


def test_scan_takes_the_same_trust(ran, pickled):
    """The same folder, the same option."""
    assert 4 == ran("scan", pickled)[0]
    assert 0 == ran("scan", pickled, "--trust", "pickle")[0]


def test_read_says_that_it_never_unpickles(ran, pickled):
    """It reads files and loads nothing, so that there is nothing to trust it with."""
    code, said = ran("read", pickled, "--at", "1,0,0")
    assert 4 == code
    assert (
        "holds only pickled weights (pytorch_model.bin), which are not read without unpickling them" in said
    )


def test_trust_leaves_a_damaged_pickle_damaged(ran, pickled, tmp_path):
    """A release whose super weights are gone is seen through its activations."""
    release = shutil.copytree(pickled, tmp_path / "release")
    tensors = torch.load(release / "pytorch_model.bin", weights_only=True)
    for scalar in resolve("tiny-planted").super_weights:
        place = scalar.coordinate
        tensors[f"model.layers.{place.layer}.mlp.down_proj.weight"][place.row, place.col] = 0.0
    torch.save(tensors, release / "pytorch_model.bin")
    code, said = ran("compare", "tiny-planted", release, "--trust", "pickle", "--depth", "activations")
    assert 1 == code, said
