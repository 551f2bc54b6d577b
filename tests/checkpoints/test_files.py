"""A file of this machine, read into memory, and a safetensors file that is copied without a tensor."""

from __future__ import annotations

import numpy as np
import pytest

from superweight.checkpoints.tensors.files import LocalFile
from superweight.checkpoints.tensors.safetensors_copy import copy_file
from superweight.core.errors import BadInput

CONTENT = bytes(range(200))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return LocalFile(path, len(CONTENT))


@pytest.mark.parametrize(("start", "length"), [(0, 200), (3, 50), (199, 1), (20, 0)])
def test_a_range_lands_where_it_is_to_lie(file, start, length):
    """Every byte of it, at its own place, and as many are counted."""
    target = bytearray(length)
    file.read_into(start, memoryview(target))
    assert CONTENT[start : start + length] == bytes(target)
    assert length == file.tally.count


def test_a_range_behind_the_end_is_told(file):
    """With how far the file reaches."""
    with pytest.raises(BadInput, match="200"):
        file.read_into(150, memoryview(bytearray(51)))


@pytest.mark.parametrize("length", range(1, 17))
def test_the_numbers_of_a_copy_begin_at_a_multiple_of_eight(tmp_path, write_safetensors, length):
    """However long the header is: readers map what lies behind it."""
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_safetensors(tmp_path / "source", {"n" * length: numbers, "gone": numbers})
    copy_file(tmp_path / "source", tmp_path / "copy", {"gone"}, {"new": ("F16", numbers)})
    content = (tmp_path / "copy").read_bytes()
    header = int.from_bytes(content[:8], "little")
    assert (0, 8 + header + 24 + 12) == (header % 8, len(content))
    assert numbers.tobytes() == content[8 + header : 8 + header + 24]
