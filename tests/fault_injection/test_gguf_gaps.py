"""A GGUF file with a gap is refused by name, and one in parts is read whole, whichever part is named."""

from __future__ import annotations

import shutil

import gguf
import pytest
import torch
from gguf.quants import quantize
from safetensors.torch import load_file

from superweight.checkpoints.gguf_parts import unite
from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import fetch, require_different_models
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.model.gguf_conversion import converted_copy
from superweight.model.loading import load
from tests.fault_injection.gguf_copies import rewrite_gguf, split_gguf
from tests.helpers.checkpoint_files import finish_gguf, write_small_gguf

UP = "blk.2.ffn_up.weight"
UP_PROJ = "model.layers.2.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    write_small_gguf(folder / "tiny.gguf")
    return folder / "tiny.gguf"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_missing_tensor_is_refused_and_nothing_is_kept(sound, tmp_path, cache, refusal):
    """transformers would fill it with random numbers, and the cache would hand them on."""
    rewrite_gguf(sound, tmp_path / "gap.gguf", drop={UP})
    line = refusal(converted_copy, tmp_path / "gap.gguf")
    assert f"gap.gguf: tensor {UP_PROJ} is missing, and would be filled with random numbers" in line
    assert [] == list(cache.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["output_norm.weight", "blk.1.attn_norm.weight", "token_embd.weight"])
def test_no_kind_of_tensor_is_filled_in(sound, tmp_path, refusal, name):
    """A norm of ones looks harmless and is no one's model either."""
    rewrite_gguf(sound, tmp_path / "gap.gguf", drop={name})
    assert "is missing, and would be filled with" in refusal(converted_copy, tmp_path / "gap.gguf")


def test_a_tensor_of_another_shape_is_refused(sound, tmp_path, refusal):
    """It would be thrown away and filled with random numbers."""
    rewrite_gguf(sound, tmp_path / "short.gguf", change={UP: lambda numbers: numbers[:-1]})
    line = refusal(converted_copy, tmp_path / "short.gguf")
    assert f"tensor {UP_PROJ} has shape [159, 64] where its metadata asks for [160, 64]" in line


def test_blocks_that_the_metadata_forgets_are_refused(sound, tmp_path, refusal):
    """A file of four blocks that says three would be read without its last."""
    rewrite_gguf(sound, tmp_path / "three.gguf", metadata={"llama.block_count": 3})
    line = refusal(converted_copy, tmp_path / "three.gguf")
    assert "blk.3." in line
    assert "would be left out, because its metadata has 3 blocks" in line


def test_blocks_that_are_not_there_are_refused(sound, tmp_path, refusal):
    """A file of four blocks that says five would get a random fifth."""
    rewrite_gguf(sound, tmp_path / "five.gguf", metadata={"llama.block_count": 5})
    assert "tensor model.layers.4." in refusal(converted_copy, tmp_path / "five.gguf")


def test_a_copy_of_the_format_that_had_gaps_is_never_read(sound):
    """Copies of format 1 may be poisoned."""
    assert not converted_copy(sound).name.endswith("-v1")


@pytest.mark.parametrize("named", [0, 1, 2])
def test_a_model_in_parts_is_the_model(sound, tmp_path, named):
    """Whichever part is named, the copy holds the numbers of the file before it was split."""
    parts = split_gguf(sound, tmp_path, 3)
    whole = load_file(converted_copy(sound) / "model.safetensors")
    united = load_file(converted_copy(parts[named]) / "model.safetensors")
    assert whole.keys() == united.keys()
    for name, numbers in whole.items():
        assert torch.equal(numbers, united[name])


def test_every_part_is_the_same_model(sound, tmp_path, refusal):
    """It is fetched by its first part, and is no base of itself."""
    parts = split_gguf(sound, tmp_path, 2)
    first, second = (resolve(str(part)) for part in parts)
    assert parts[0] == fetch(second).path
    assert "are the same files" in refusal(require_different_models, first, second)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_missing_part_is_named_before_anything_is_loaded(sound, tmp_path, refusal, monkeypatch, lost):
    """No part is enough for a model, not even the first and the last."""
    import transformers

    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loaded")
    )
    parts = split_gguf(sound, tmp_path, 3)
    parts[lost].unlink()
    named = parts[0 if lost else 1]
    expected = f"{tmp_path} lacks {parts[lost].name} of the 3 parts of the model; fetch it again"
    assert expected == refusal(load, resolve(str(named)), device="cpu")
    assert parts[lost].name in refusal(open_checkpoint, named)


def test_a_part_that_was_renamed_is_no_whole_model(sound, tmp_path, refusal):
    """Its header says what its name hides."""
    parts = split_gguf(sound, tmp_path, 3)
    shutil.copy(parts[1], tmp_path / "model.gguf")
    line = refusal(load, resolve(str(tmp_path / "model.gguf")), device="cpu")
    assert "model.gguf is one of 3 parts by its header, and one of 1 by its name" in line


def test_parts_in_the_wrong_order_are_refused(sound, tmp_path, refusal):
    """Each says of itself which it is."""
    parts = split_gguf(sound, tmp_path, 3)
    parts[1].rename(tmp_path / "x")
    parts[2].rename(parts[1])
    (tmp_path / "x").rename(parts[2])
    assert "is part 3 by its header, and part 2 by its name" in refusal(open_checkpoint, parts[0])


def test_a_part_of_another_model_is_refused(sound, tmp_path, refusal):
    """Parts that count together say how many tensors they hold."""
    rewrite_gguf(sound, tmp_path / "tiny.gguf", drop={"blk.3.attn_norm.weight", "blk.3.ffn_norm.weight"})
    other = tmp_path / "other"
    other.mkdir()
    parts = split_gguf(sound, tmp_path, 2)
    split_gguf(tmp_path / "tiny.gguf", other, 2)[1].replace(parts[1])
    assert "the parts hold 38 tensors, and the last counts 37" in refusal(open_checkpoint, parts[0])


def test_uniting_keeps_every_stored_byte(tmp_path, sound):
    """Quantised blocks and 16-bit floats are copied, not converted: as the format's own reader sees them."""
    kinds = {
        UP: gguf.GGMLQuantizationType.Q8_0,
        "blk.0.ffn_gate.weight": gguf.GGMLQuantizationType.Q4_0,
        "blk.1.ffn_gate.weight": gguf.GGMLQuantizationType.BF16,
        "blk.3.ffn_gate.weight": gguf.GGMLQuantizationType.F16,
    }
    writer = gguf.GGUFWriter(tmp_path / "mixed.gguf", "llama")
    for tensor in gguf.GGUFReader(sound).tensors:
        kind = kinds.get(tensor.name, tensor.tensor_type)
        writer.add_tensor(tensor.name, quantize(tensor.data, kind), raw_dtype=kind)
    finish_gguf(writer)
    unite(split_gguf(tmp_path / "mixed.gguf", tmp_path, 2), tmp_path / "united.gguf")
    before = {t.name: t for t in gguf.GGUFReader(tmp_path / "mixed.gguf").tensors}
    after = {t.name: t for t in gguf.GGUFReader(tmp_path / "united.gguf").tensors}
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert (tensor.tensor_type, list(tensor.shape)) == (after[name].tensor_type, list(after[name].shape))
        assert tensor.data.tobytes() == after[name].data.tobytes()
