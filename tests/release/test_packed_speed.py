"""The real model in 4 bits: sound and ruined releases are told apart in less than two seconds."""

import shutil
import time

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import fetch
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.core.coordinates import Coordinate
from superweight.model.gguf_conversion import converted_copy
from superweight.release.limits import Limits
from superweight.release.result import DAMAGED, KEPT
from superweight.release.static_checks import compare_static
from tests.checkpoints.forms import layouts
from tests.fault_injection.gguf_copies import rewrite_gguf
from tests.release.packed_models import pack

NAME = "smollm2-135m-instruct-q4_1"
PLACES = [Coordinate(11, 507, 1229), Coordinate(11, 507, 1487)]
FORMS = ["GPTQ int4", "AWQ int4", "compressed-tensors int4", "bitsandbytes nf4", "HQQ int4", "MLX int4"]

pytestmark = [pytest.mark.checkpoint, pytest.mark.slow]


@pytest.fixture(scope="module")
def gguf():
    return fetch(resolve(NAME)).path


@pytest.fixture(scope="module")
def base(gguf):
    return converted_copy(gguf)


def words(rows, bits, order=None):
    """Do what `layouts.words` does for 4 bits, a row at a time."""
    assert bits == 4
    codes = np.array(rows, np.uint32)
    codes = codes.reshape(len(codes), -1, 8)[..., list(order or range(8))]
    packed = (codes << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32)
    return torch.from_numpy(packed.view(np.int32))


@pytest.mark.parametrize("order", [None, [0, 2, 4, 6, 1, 3, 5, 7]])
def test_rows_are_packed_as_value_by_value(order):
    """The quick packing of this file is the slow one of the other tests."""
    rows = np.random.default_rng(0).integers(0, 16, (3, 32)).tolist()
    assert layouts.words(rows, 4, order).tolist() == words(rows, 4, order).tolist()


def told(base, release):
    """Return the status of each super weight, and how many seconds of the processor it took to say so."""
    began = time.process_time()
    checks = compare_static(open_checkpoint(base), open_checkpoint(release), PLACES, Limits())
    seconds = time.process_time() - began
    found = {check.name: check for check in checks}
    return [found[f"super weight {place}"].status for place in PLACES], seconds


@pytest.mark.parametrize("name", FORMS)
def test_a_packed_release_is_told_from_a_ruined_one(base, tmp_path, monkeypatch, record_property, name):
    """Both super weights are kept in the sound one; the one whose group is destroyed is damaged."""
    monkeypatch.setattr(layouts, "words", words)
    place = PLACES[0]
    sound = pack(base, tmp_path / "sound", name)
    statuses, seconds = told(base, sound)
    assert [KEPT, KEPT] == statuses
    shutil.rmtree(sound)
    ruined = pack(base, tmp_path / "ruined", name, (place.layer, place.row, place.col))
    spoilt, again = told(base, ruined)
    assert spoilt == [DAMAGED, KEPT]
    record_property("seconds", [round(seconds, 2), round(again, 2)])
    assert max(seconds, again) < 2


def q4_k(numbers):
    """Return Q4_K blocks of 256 numbers: eight scales and minima of 6 bits, codes of 4."""
    runs = numbers.reshape(-1, 8, 32).astype(np.float32)
    low = np.minimum(runs.min(-1), 0)
    scale, least = (runs.max(-1) - low) / 15, -low
    whole = np.stack([scale.max(1), least.max(1)], 1) / 63
    half = whole.astype(np.float16)
    safe = np.maximum(half.astype(np.float32), 1e-12)
    s, m = (
        np.clip(np.rint(x / safe[:, k : k + 1]), 0, 63).astype(np.uint8) for k, x in ((0, scale), (1, least))
    )
    held = np.zeros((len(runs), 12), np.uint8)
    held[:, 0:4] = s[:, :4] & 63 | (s[:, 4:] >> 4) << 6
    held[:, 4:8] = m[:, :4] & 63 | (m[:, 4:] >> 4) << 6
    held[:, 8:12] = s[:, 4:] & 15 | (m[:, 4:] & 15) << 4
    step = np.maximum(s * safe[:, :1], 1e-12)[..., None]
    codes = np.clip(np.rint((runs + (m * safe[:, 1:])[..., None]) / step), 0, 15).astype(np.uint8)
    pairs = codes.reshape(-1, 4, 2, 32)
    packed = pairs[:, :, 0] | pairs[:, :, 1] << 4
    blocks = [half.view(np.uint8).reshape(-1, 4), held, packed.reshape(-1, 128)]
    return np.concatenate(blocks, 1).reshape(len(numbers), -1)


def test_a_q4_k_file_is_told_from_a_ruined_one(gguf, base, tmp_path, record_property):
    """Every output projection in blocks that are made here; gguf's own dequantize says what they hold."""
    place, stored = PLACES[0], open_checkpoint(gguf)
    blocks = {name: q4_k(stored.read(name)) for name in stored.files if name.endswith("ffn_down.weight")}
    name = f"blk.{place.layer}.ffn_down.weight"
    again, down = dequantize(blocks[name], GGMLQuantizationType.Q4_K), stored.read(name)
    assert np.abs(again - down).max() < 0.1 * np.abs(down).max()
    spoilt = blocks[name].copy()
    # The factors of the block of 256 that holds the super weight.
    factors = place.col // 256 * 144
    spoilt[place.row, factors : factors + 4] = 0
    seconds = []
    for data, expected in ((blocks, [KEPT, KEPT]), (blocks | {name: spoilt}, [DAMAGED])):
        path = tmp_path / "q4_k.gguf"
        change = {key: lambda _, held=held: held for key, held in data.items()}
        rewrite_gguf(gguf, path, change=change, kind=GGMLQuantizationType.Q4_K)
        statuses, took = told(base, path)
        assert expected == statuses[: len(expected)]
        seconds.append(took)
    record_property("seconds", [round(item, 2) for item in seconds])
    assert max(seconds) < 2
