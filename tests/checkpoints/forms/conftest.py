"""A checkpoint of one packed projection, and its number read whole, by rows and one by one."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from superweight.checkpoints.tensors.locations import locations
from superweight.checkpoints.tensors.open import open_checkpoint

STEM = "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Write tensors named from the projection on, and return where it is found."""
    folder = tmp_path_factory.mktemp("packed")

    def make(tensors, config=None, metadata=None, experts=False):
        stem = "model.layers.0.mlp.experts.down_proj" if experts else f"{STEM}."
        named = {stem + name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(named, folder / "model.safetensors", metadata)
        (folder / "config.json").write_text(json.dumps(config or {}))
        checkpoint = open_checkpoint(folder)
        return checkpoint, locations(checkpoint)

    return make


@pytest.fixture(scope="module")
def same(packed):
    """Assert that what is read is the expected matrix, in every way of reading it; return the location."""

    def check(expected, tensors, config=None, metadata=None, *, rtol=0.0, atol=0.0, seed=0):
        checkpoint, (location,) = packed(tensors, config, metadata)
        matrix = location.matrix(checkpoint)
        want = expected.detach().to(torch.float32).numpy()
        assert want.shape == location.shape == matrix.shape
        np.testing.assert_allclose(matrix, want, rtol=rtol, atol=atol)
        source = np.random.default_rng(seed)
        for row, col in source.integers(want.shape, size=(3, 2)):
            assert matrix[row].tolist() == location.row(checkpoint, int(row)).tolist()
            scalar = location.scalar(checkpoint, int(row), int(col))
            assert float(matrix[row, col]) == scalar.value
            assert scalar.step is not None
        return checkpoint, location

    return check
