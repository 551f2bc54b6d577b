"""Files that are damaged, lie or lead elsewhere: one line that names them, exit code 4, nothing written."""

from __future__ import annotations

import json
import struct

import pytest
from safetensors.torch import load_file, save_file

from superweight.core.resources import fixtures_directory
from tests.helpers.checkpoint_files import copy_checkpoint, write_small_gguf

SOUND = fixtures_directory() / "checkpoints" / "tiny-planted"
DOWN_PROJ = "model.layers.1.mlp.down_proj.weight"
SETTINGS = ("config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def copy(tmp_path):
    """A sound checkpoint to be spoiled."""
    return copy_checkpoint("tiny-planted", tmp_path / "spoiled")


@pytest.fixture
def refused(superweight, tmp_path):
    """Scan what was spoiled, hold the command to its manners, and return the line."""

    def line(path):
        written = tmp_path / "out.json"
        result = superweight("scan", str(path), "--json", str(written))
        said = [line for line in result.stderr.splitlines() if line.startswith("superweight: ")]
        assert (4, 1) == (result.exit_code, len(said)), result.output
        assert "Traceback" not in result.output
        assert not written.exists()
        return said[0]

    return line


def split(path):
    """Return the header of a safetensors file and the bytes behind it."""
    raw = (path / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(path, header, body, *, lie=0):
    text = json.dumps(header).encode()
    length = (len(text) + lie) % 2**64
    (path / "model.safetensors").write_bytes(length.to_bytes(8, "little") + text + body)


@pytest.mark.parametrize("percent", range(0, 100, 5))
def test_a_checkpoint_cut_short_is_refused(copy, refused, percent):
    """At every twentieth of the file."""
    file = copy / "model.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[: len(raw) * percent // 100])
    assert "model.safetensors" in refused(copy)


@pytest.mark.parametrize("lie", [-8, -1, 1, 8, 10**6, 2**40, 2**63])
def test_a_header_length_that_lies_is_refused(copy, refused, lie):
    """Too short, a little too long, longer than the file, longer than any."""
    join(copy, *split(copy), lie=lie)
    assert "model.safetensors" in refused(copy)


@pytest.mark.parametrize("dtype", ["F32", "F64", "I16", "F8_E4M3", "Q4", "", 7])
def test_a_dtype_that_lies_is_refused(copy, refused, dtype):
    """The bytes do not fit it, or nobody knows it."""
    header, body = split(copy)
    header[DOWN_PROJ]["dtype"] = dtype
    join(copy, header, body)
    assert str(copy) in refused(copy)


@pytest.mark.parametrize("change", ["swapped shape", "long name", "hole", "overlap"])
def test_a_header_that_lies_is_refused(copy, refused, change):
    """Another shape, a name of 10,000 characters, a tensor left out, two tensors in one place."""
    header, body = split(copy)
    if change == "swapped shape":
        header[DOWN_PROJ]["shape"].reverse()
    elif change == "long name":
        header["x" * 10_000] = header.pop(DOWN_PROJ)
    elif change == "hole":
        del header[DOWN_PROJ]
    else:
        header["model.layers.2.mlp.down_proj.weight"] = dict(header[DOWN_PROJ])
    join(copy, header, body)
    assert str(copy) in refused(copy)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [DOWN_PROJ, "model.embed_tokens.weight", "model.norm.weight"])
def test_one_number_that_is_none_is_refused_by_name(copy, refused, name, number):
    """NaN or an infinity in one tensor: every comparison with what follows would pass."""
    tensors = load_file(copy / "model.safetensors")
    tensors[name].view(-1)[5] = number
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    assert f"tensor {name} holds NaN or infinity" in refused(copy)


@pytest.mark.parametrize("kind", ["zero bytes", "directory", "loop", "absent"])
def test_weights_that_are_no_file_are_refused(copy, refused, kind):
    """Empty, a directory, a link to itself, not there."""
    file = copy / "model.safetensors"
    file.unlink()
    if kind == "zero bytes":
        file.touch()
    elif kind == "directory":
        file.mkdir()
    elif kind == "loop":
        file.symlink_to(file.name)
    assert str(copy) in refused(copy)


@pytest.mark.parametrize("suffix", ["", ".gguf", ".safetensors"])
def test_a_path_that_no_file_system_takes_is_refused(refused, tmp_path, suffix):
    """A name of 10,000 characters, and a link to itself."""
    assert str(tmp_path) in refused(tmp_path / ("x" * 10_000 + suffix))
    loop = tmp_path / f"loop{suffix}"
    loop.symlink_to(loop.name)
    assert str(loop) in refused(loop)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"1", b"\xff\xfe\0", b"[" * 100_000, b'{"a": '])
def test_settings_that_are_no_settings_are_refused(copy, refused, name, text):
    """Empty, of another type, not text, nested too deep, cut short."""
    (copy / name).write_bytes(text)
    assert str(copy) in refused(copy)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("num_hidden_layers", value) for value in (0, -1, 2, 40, "4")),
        *(("hidden_size", value) for value in (0, 1)),
        *(("vocab_size", value) for value in (3, 100_000)),
        *(("num_attention_heads", value) for value in (0, 7)),
        *(("model_type", value) for value in ("nonsense", "bert")),
        *(("intermediate_size", 0), ("hidden_act", "nonsense"), ("dtype", "nonsense")),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_config_that_belongs_to_nothing_is_refused(copy, refused, key, value):
    """Sizes, types and names that contradict the weights or mean nothing."""
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**settings, key: value}))
    assert str(copy) in refused(copy)


@pytest.fixture
def sharded(copy):
    """The checkpoint in two files, and the map of its index."""
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names, index = sorted(tensors), {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, copy / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    _point(copy, index)
    return copy, index


def _point(path, index):
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def test_a_sharded_checkpoint_is_sound(sharded, superweight):
    """What the next tests spoil is good to begin with."""
    assert 0 == superweight("scan", str(sharded[0])).exit_code


def test_a_missing_shard_is_refused(sharded, refused):
    """And named."""
    (sharded[0] / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refused(sharded[0])


def test_a_shard_cut_short_is_refused(sharded, refused):
    """By ten bytes."""
    file = sharded[0] / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert file.name in refused(sharded[0])


@pytest.mark.parametrize("file", ["../spoiled/model-00001-of-00002.safetensors", "/etc/passwd", "", 7, None])
def test_an_index_that_leads_elsewhere_is_refused(sharded, refused, file):
    """Out of the directory, to no file, to what is no name."""
    path, index = sharded
    _point(path, dict.fromkeys(index, file))
    assert str(path) in refused(path)


def test_an_index_that_names_an_absent_tensor_is_refused(sharded, refused):
    """The file it names does not hold it."""
    path, index = sharded
    _point(path, index | {"model.layers.9.mlp.down_proj.weight": "model-00001-of-00002.safetensors"})
    assert "model.layers.9.mlp.down_proj.weight" in refused(path)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"weight_map": []}', '{"weight_map": {}}'])
def test_an_index_without_a_map_is_refused(sharded, refused, text):
    """Empty, cut short, of another type."""
    (sharded[0] / "model.safetensors.index.json").write_text(text)
    assert str(sharded[0]) in refused(sharded[0])


@pytest.fixture
def gguf_file(tmp_path, monkeypatch):
    """A sound GGUF file to be spoiled, and a cache of its own in which nothing may be left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_small_gguf(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def kept(root):
    """Return the files that lie under the cache, locks left out."""
    return [path for path in (root / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_gguf_file_is_sound(gguf_file, superweight):
    """What the next tests spoil is good to begin with, and is kept as a copy."""
    assert 0 == superweight("scan", str(gguf_file)).exit_code
    assert kept(gguf_file.parent)


@pytest.mark.parametrize("percent", range(0, 100, 5))
def test_a_gguf_file_cut_short_is_refused(gguf_file, refused, percent):
    """At every twentieth of the file; no copy is made of what is there."""
    raw = gguf_file.read_bytes()
    gguf_file.write_bytes(raw[: len(raw) * percent // 100])
    assert str(gguf_file) in refused(gguf_file)
    assert [] == kept(gguf_file.parent)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_one_number_of_a_gguf_file_that_is_none_is_refused(gguf_file, refused, number):
    """The last number of the last tensor, which is a norm's; no copy is made of it."""
    raw = gguf_file.read_bytes()
    gguf_file.write_bytes(raw[:-4] + struct.pack("<f", number))
    said = refused(gguf_file)
    assert str(gguf_file) in said
    assert "model.layers.3.post_attention_layernorm.weight holds NaN or infinity" in said
    assert [] == kept(gguf_file.parent)
