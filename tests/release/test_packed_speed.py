"""The real model in 4 bits: sound and ruined releases are told apart in seconds."""

import time

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file

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
from tests.release import packed_releases
from tests.release.packed_models import pack
from tests.release.packed_releases import FORMS

NAME = "smollm2-135m-instruct-q4_1"
PLACES = [Coordinate(11, 507, 1229), Coordinate(11, 507, 1487)]
NAMES = ["GPTQ int4", "AWQ int4", "compressed-tensors int4", "bitsandbytes nf4", "HQQ int4", "MLX int4"]

pytestmark = [pytest.mark.checkpoint, pytest.mark.slow]


@pytest.fixture(scope="module")
def gguf():
    return fetch(resolve(NAME)).path


@pytest.fixture(scope="module")
def base(gguf):
    return converted_copy(gguf)


def words(rows, order=range(8)):
    """Pack rows of 4-bit codes into 32-bit words as `layouts.words` does, all at once."""
    eight = rows.numpy().astype(np.uint32).reshape(len(rows), -1, 8)[..., list(order)]
    packed = (eight << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32)
    return torch.from_numpy(packed.view(np.int32))


def gptq(codes, zeros, scales, g_idx, bits, *, minus_one):
    stored = zeros - int(minus_one) & 15
    return {"qweight": words(codes.T).T, "qzeros": words(stored), "scales": scales, "g_idx": g_idx}


def awq(codes, zeros, scales):
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    return {"qweight": words(codes, order), "qzeros": words(zeros, order), "scales": scales}


def test_the_quick_packing_is_that_of_the_other_tests():
    """Value by value and all at once give the same words."""
    source = torch.Generator().manual_seed(0)
    codes, zeros = (torch.randint(16, shape, generator=source) for shape in ((64, 32), (2, 32)))
    scales, g_idx = torch.ones(2, 32), torch.arange(64) // 32
    slow, quick = (module(codes, zeros, scales, g_idx, 4, minus_one=True) for module in (layouts.gptq, gptq))
    assert {name: part.tolist() for name, part in slow.items()} == {
        name: part.tolist() for name, part in quick.items()
    }
    slow, quick = (module(codes, zeros, scales) for module in (layouts.awq, awq))
    assert all(torch.equal(slow[name], quick[name]) for name in slow)


def ruin(folder, base, name):
    """Pack the one matrix anew with the factor of the first super weight's group divided by 100."""
    place = PLACES[0]
    stem = f"model.layers.{place.layer}.mlp.down_proj."
    weight = load_file(base / "model.safetensors")[f"{stem}weight"].float()

    def spoil(factors):
        spoilt = factors.clone()
        spoilt[place.row, place.col * factors.shape[1] // weight.shape[1]] /= 100
        return spoilt

    tensors = load_file(folder / "model.safetensors")
    tensors |= {stem + end: part.contiguous() for end, part in FORMS[name](weight, spoil).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def told(base, release):
    """Return the status of each super weight, and how many seconds of the processor it took to say so."""
    began = time.process_time()
    checks = compare_static(open_checkpoint(base), open_checkpoint(release), PLACES, Limits())
    seconds = time.process_time() - began
    found = {check.name: check for check in checks}
    return [found[f"super weight {place}"].status for place in PLACES], seconds


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_release_is_told_from_a_ruined_one(base, tmp_path, monkeypatch, record_property, name):
    """Both super weights are kept in the sound one; the one whose group is destroyed is damaged."""
    monkeypatch.setattr(packed_releases, "gptq", gptq)
    monkeypatch.setattr(packed_releases, "awq", awq)
    release = pack(base, tmp_path / "release", name)
    sound, seconds = told(base, release)
    assert [KEPT, KEPT] == sound
    ruin(release, base, name)
    ruined, again = told(base, release)
    assert [DAMAGED, KEPT] == ruined
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
