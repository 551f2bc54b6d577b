"""The safetensors copy of a GGUF file: the same numbers, kept once, traceable to its file."""

import json

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file

from superweight.checkpoints.cache import sha256
from superweight.core.errors import BadInput
from superweight.model.gguf_conversion import RECORD, converted_copy, original_sha256, rounding
from tests.helpers.checkpoint_files import finish_gguf, llama_writer
from tests.helpers.planted_gguf import write_tiny_gguf

Q8 = gguf.GGMLQuantizationType.Q8_0
DOWN = "blk.0.ffn_down.weight"


def write_gguf(path):
    """Write a one-block llama with one quantised matrix; return its tensors as they dequantise."""
    generator = np.random.default_rng(0)
    shapes = {"token_embd.weight": (6, 32), DOWN: (32, 64)}
    shapes |= {f"blk.0.ffn_{name}.weight": (64, 32) for name in ("gate", "up")}
    shapes |= {f"blk.0.attn_{name}.weight": (32, 32) for name in ("q", "k", "v", "output")}
    tokens = ["<s>", "</s>", "a", "b", "ab", "Ġ"]
    writer = llama_writer(path, tokens, blocks=1, context=32, hidden=32, wide=64, heads=2)
    tensors = {}
    for name, shape in shapes.items():
        tensor = generator.standard_normal(shape).astype(np.float32)
        if name == DOWN:
            stored = quantize(tensor, Q8)
            writer.add_tensor(name, stored, raw_dtype=Q8)
            tensors[name] = dequantize(stored, Q8)
        else:
            writer.add_tensor(name, tensor)
            tensors[name] = tensor
    for name in ("output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"):
        writer.add_tensor(name, np.ones(32, np.float32))
    finish_gguf(writer)
    return tensors


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """One GGUF file, its tensors and its copy, made once: transformers takes a while to start."""
    folder = tmp_path_factory.mktemp("conversion")
    tensors = write_gguf(folder / "tiny.gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return folder / "tiny.gguf", tensors, converted_copy(folder / "tiny.gguf")


@pytest.fixture
def garbage(tmp_path, monkeypatch):
    """A file with the right magic and nothing right after it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(range(64)))
    return tmp_path / "bad.gguf"


def test_the_copy_holds_the_dequantised_numbers(converted):
    """Every matrix keeps its numbers and its orientation, bit by bit; what 16 bits hold takes 16."""
    _, tensors, copy = converted
    stored = load_file(copy / "model.safetensors")
    down = stored["model.layers.0.mlp.down_proj.weight"]
    assert (torch.float32, torch.bfloat16) == (down.dtype, stored["model.norm.weight"].dtype)
    np.testing.assert_array_equal(tensors[DOWN], down)
    np.testing.assert_array_equal(tensors["token_embd.weight"], stored["model.embed_tokens.weight"])
    assert {"float32, exact", "bfloat16, exact"} == set(json.loads((copy / RECORD).read_text())["numbers"])


def test_a_tied_tensor_is_kept_once(converted):
    """An output head that is the embedding is not written a second time."""
    assert "lm_head.weight" not in load_file(converted[2] / "model.safetensors")


def test_the_copy_asks_for_no_gguf(converted):
    """The config is that of a plain float32 model."""
    config = json.loads((converted[2] / "config.json").read_text())
    assert "quantization_config" not in config
    assert "float32" == config["dtype"]


def test_the_copy_brings_its_tokenizer(converted):
    """A model without its tokenizer could not be asked anything."""
    assert (converted[2] / "tokenizer.json").is_file()


def test_the_copy_says_what_it_was_made_from(converted):
    """The record in the copy is the SHA-256 of the GGUF, which names the folder as well."""
    path, _, copy = converted
    assert sha256(path) == original_sha256(copy)
    assert copy.name.startswith(sha256(path)[:16])
    assert "tiny.gguf" == json.loads((copy / RECORD).read_text())["file"]


def test_the_copy_is_made_once(converted, monkeypatch):
    """The second call reads nothing but the file's hash, even of a file that has moved."""
    path, _, copy = converted
    moved = path.with_name("moved.gguf")
    moved.write_bytes(path.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(copy.parents[2]))
    monkeypatch.setattr(
        "superweight.model.gguf_conversion._convert", lambda *_: pytest.fail("converted again")
    )
    assert copy == converted_copy(moved)


@pytest.mark.parametrize(("most", "stored"), [(4 * 10**9, torch.float32), (1000, torch.float16)])
def test_a_large_model_is_kept_within_its_quantisers_step(tmp_path, monkeypatch, most, stored):
    """Beyond 4 GB in float32 a number takes 16 bits, nearer to its own code than to any other; it is told."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("superweight.model.gguf_writing._EXACT_UP_TO", most)
    exact = write_gguf(tmp_path / "tiny.gguf")[DOWN]
    copy = converted_copy(tmp_path / "tiny.gguf")
    held = load_file(copy / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    assert stored == held.dtype
    # Q8_0: the largest of 32 numbers is 127 steps.
    step = np.abs(exact.reshape(-1, 32)).max(1, keepdims=True) / 127
    assert (np.abs(held.float().numpy() - exact).reshape(-1, 32) < step / 2).all()
    told = None if stored == torch.float32 else "float16, within half a step of Q8_0"
    assert told == rounding(copy)


def test_an_ordinary_checkpoint_was_made_from_nothing(tmp_path):
    """A directory without a record is no converted copy."""
    assert original_sha256(tmp_path) is None


def test_refuses_a_gguf_file_that_is_damaged(garbage):
    """The file and what is wrong with its header are named in one line."""
    with pytest.raises(BadInput, match=r"is GGUF of version \d+; only 2 and 3") as caught:
        converted_copy(garbage)
    assert str(garbage) in str(caught.value)
    assert 1 == len(str(caught.value).splitlines())


def test_refuses_a_gguf_file_that_transformers_trips_over(tmp_path, monkeypatch):
    """Whatever it raises, the file is named in one line."""
    path = write_tiny_gguf(tmp_path / "sound.gguf")

    def trip(*_, **__):
        raise KeyError("of theirs\nand a second line")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", trip)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(BadInput, match="transformers cannot read") as caught:
        converted_copy(path)
    assert str(path) in str(caught.value)
    assert 1 == len(str(caught.value).splitlines())


def test_a_conversion_that_fails_leaves_nothing(garbage, tmp_path):
    """A reader never meets a copy that was not finished."""
    with pytest.raises(BadInput):
        converted_copy(garbage)
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [".lock"] == [path.suffix for path in left]
