"""Weights written a tensor at a time: the format's own library reads them, in one part and in several."""

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from superweight.checkpoints.tensors.halves import bfloat16, exactly, float16, widened, within_the_step
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.checkpoints.tensors.safetensors_parts import SafetensorsParts

few = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
TENSORS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b.weight": np.arange(8, dtype=np.float16),
    "c.weight": bfloat16(np.arange(16, dtype=np.float32).reshape(4, 4)),
}


def write(folder, **options):
    with SafetensorsParts(folder, TENSORS, **options) as parts:
        for name, numbers in TENSORS.items():
            parts.add(name, numbers)
    return sorted(path.name for path in folder.iterdir())


def test_one_part_is_a_file_of_its_own(tmp_path):
    """The library reads every tensor in its type and shape; bfloat16 is told by its bits."""
    assert ["model.safetensors"] == write(tmp_path)
    read = load_file(tmp_path / "model.safetensors")
    assert [torch.float32, torch.float16, torch.bfloat16] == [read[name].dtype for name in TENSORS]
    for name, numbers in TENSORS.items():
        assert widened(numbers).tolist() == read[name].float().tolist()
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert {"format": "pt"} == file.metadata()


def test_several_parts_have_an_index(tmp_path):
    """Named as transformers names them, no part larger than asked, every tensor in the part of the index."""
    names = write(tmp_path, largest=50)
    assert [f"model-0000{place}-of-00002.safetensors" for place in (1, 2)] == names[:2]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert 48 + 16 + 32 == index["metadata"]["total_size"]
    for name, numbers in TENSORS.items():
        held = load_file(tmp_path / index["weight_map"][name])
        assert widened(numbers).tolist() == held[name].float().tolist()
    assert widened(TENSORS["c.weight"]).tolist() == open_checkpoint(tmp_path).read("c.weight").tolist()


def test_what_was_not_finished_has_no_name_of_a_model(tmp_path):
    """A reader does not take it for one."""

    def stopped():
        with SafetensorsParts(tmp_path, TENSORS) as parts:
            parts.add("a.weight", TENSORS["a.weight"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stopped()
    assert ["part-0"] == [path.name for path in tmp_path.iterdir()]


@given(numbers=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40))
@few
def test_numbers_are_rounded_to_bfloat16_as_torch_does(numbers):
    """To the nearest, ties to even."""
    array = np.array(numbers, np.float32)
    expected = torch.from_numpy(array).to(torch.bfloat16).float()
    assert expected.tolist() == widened(bfloat16(array)).tolist()


@pytest.mark.parametrize(
    ("number", "dtype"),
    [(1.5, np.uint16), (1 + 2**-10, np.float16), (2.0**100, np.uint16), (1 + 2**-20, None)],
)
def test_numbers_that_16_bits_hold_are_kept_exactly(number, dtype):
    """In bfloat16 for its range, in float16 for its digits, in neither where both would round."""
    array = np.full((2, 16), number, np.float32)
    stored = exactly(array)
    assert dtype == (None if stored is None else stored.dtype)
    assert stored is None or widened(stored).tolist() == array.tolist()


def quantised(seed, bits, offset):
    """Return numbers on a grid of 2^bits codes in runs of 32, and how far apart the codes are."""
    source = np.random.default_rng(seed)
    step = source.uniform(0.001, 0.01, (64, 1)).astype(np.float32)
    codes = source.integers(0, 2**bits, (64, 32)).astype(np.float32)
    codes[:, 0], codes[:, 16], codes[:, 1], codes[:, 17] = 0, 0, 2**bits - 1, 2**bits - 1
    return step * (codes + np.float32(offset)), step


@given(seed=st.integers(0, 10**6), bits=st.sampled_from([2, 4, 5, 6, 8]), offset=st.integers(-300, 300))
@few
def test_what_is_kept_within_the_step_is_nearest_to_its_own_code(seed, bits, offset):
    """However far from zero the codes lie, no number comes nearer to the code beside its own."""
    numbers, step = quantised(seed, bits, offset)
    stored = within_the_step(numbers, bits)
    assert stored is not None
    assert (np.abs(widened(stored) - numbers) <= step / 2).all()


def test_codes_far_from_zero_need_more_digits(monkeypatch):
    """bfloat16 near zero, float16 farther away, neither where both would mix up the codes."""
    kinds = [within_the_step(quantised(1, 4, offset)[0], 4) for offset in (-8, 200, 20_000)]
    assert [np.uint16, np.float16, None] == [None if kind is None else kind.dtype for kind in kinds]


def test_float16_is_not_taken_where_it_overflows():
    """What is too large becomes infinity there."""
    assert np.isinf(float16(np.array([1e6], np.float32))).all()
    assert np.uint16 == within_the_step(quantised(1, 4, -8)[0] * np.float32(1e8), 4).dtype
