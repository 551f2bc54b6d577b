"""The header of a safetensors file: believed only where it agrees with itself and with the file."""

import json

import numpy as np
import pytest
import safetensors.numpy

from superweight.checkpoints.tensors.health import Condition, condition
from superweight.checkpoints.tensors.open import open_checkpoint

NAME = "layers.0.mlp.down_proj.weight"


def file_of(path, header, body=b""):
    """A file with a header of one's own: bytes as they are, all else as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def entry(dtype="F32", shape=(2, 2), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def test_reads_what_the_reference_library_writes(path):
    """Names, shapes and numbers are those that were saved, for every type numpy shares with the format."""
    saved = {
        dtype: np.arange(12).reshape(3, 4).astype(dtype)
        for dtype in ("float64", "float32", "float16", "int8", "int16", "int32", "int64", "uint8", "bool")
    }
    safetensors.numpy.save_file(saved, path, metadata={"format": "pt"})
    checkpoint = open_checkpoint(path)
    assert saved.keys() == checkpoint.tensors().keys()
    for name, array in saved.items():
        assert (3, 4) == checkpoint.info(name).shape
        assert array.astype(np.float32).tolist() == checkpoint.read(name).tolist()
        assert array[1].astype(np.float32).tolist() == checkpoint.row(name, 1).tolist()
        assert float(array[2, 1]) == checkpoint.scalar(name, 2, 1).value


def test_every_truncation_is_noticed(path, write_safetensors, refusal):
    """A file cut at any twentieth is refused when it is opened, though the scalar wanted may be whole."""
    whole = write_safetensors(path, {NAME: np.ones((64, 32), np.float32), "z": np.ones(999, np.float32)})
    content = whole.read_bytes()
    for twentieth in range(20):
        path.write_bytes(content[: len(content) * twentieth // 20])
        assert str(path) in refusal(open_checkpoint, path)
    path.write_bytes(content[:-1])
    assert "truncated" in refusal(open_checkpoint, path)
    path.write_bytes(content)
    assert 1.0 == open_checkpoint(path).scalar(NAME, 63, 31).value


@pytest.mark.parametrize(
    ("header", "size", "fault"),
    [
        (b"", 0, "no valid JSON"),
        (b"[]", 0, "no JSON object"),
        (b"not JSON", 0, "no valid JSON"),
        (b"\xff\xfe", 0, "no valid JSON"),
        (b"[" * 100_000, 0, "no valid JSON"),
        (b'{"a": {}, "a": {}}', 0, "a name occurs twice"),
        ({"a": 1}, 0, "unknown dtype None"),
        ({"a": entry(dtype="F99")}, 16, "unknown dtype 'F99'"),
        ({"a": entry(dtype=["F32"])}, 16, "unknown dtype"),
        ({"a": entry(shape=(3, 2))}, 16, "but has 16 bytes"),
        ({"a": entry(shape=(-2, -2))}, 16, "has the shape"),
        ({"a": entry(shape=(2.0, 2))}, 16, "has the shape"),
        ({"a": entry(shape=(True, 4))}, 16, "has the shape"),
        ({"a": entry(offsets=(16, 0))}, 16, "but has -16 bytes"),
        ({"a": entry(offsets=(-16, 0))}, 16, "has the shape"),
        ({"a": entry(offsets=(0,))}, 16, "has the shape"),
        ({"a": entry(offsets=(8, 24))}, 16, "truncated"),
        ({"a": entry()}, 15, "truncated"),
        ({"a": entry()}, 17, "accounts for"),
        ({"a": entry(), "b": entry(offsets=(8, 24))}, 24, "'a' and 'b' overlap"),
        ({"a": entry(), "b": entry(offsets=(32, 48))}, 48, "accounts for"),
    ],
)
def test_refuses_headers_that_lie(path, refusal, header, size, fault):
    """Each fault is one line that names the file."""
    message = refusal(open_checkpoint, file_of(path, header, bytes(size)))
    assert str(path) in message
    assert fault in message


@pytest.mark.parametrize("length", [100_000_001, 2**63, 2**64 - 1])
def test_refuses_a_gigantic_header(path, refusal, length):
    """A length that no header has is refused before anything of it is read."""
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    assert f"claims a header of {length} bytes" in refusal(open_checkpoint, path)


def test_a_header_longer_than_its_file_is_a_truncation(path, refusal):
    """A plausible length beyond the file's end says so."""
    path.write_bytes((5000).to_bytes(8, "little") + b"{}")
    assert "truncated" in refusal(open_checkpoint, path)


def test_types_of_six_bits_are_listed_but_not_read(path, refusal):
    """A 6-bit float is no corrupt header; reading one is refused by the type's name."""
    checkpoint = open_checkpoint(file_of(path, {"a": entry("F6_E2M3", (2, 4), (0, 6))}, bytes(6)))
    assert "F6_E2M3" == checkpoint.info("a").dtype
    assert "type F6_E2M3 cannot be read" in refusal(checkpoint.read, "a")


def test_four_bit_floats_are_read_two_a_byte(path):
    """The lower half of a byte comes first: 0x72 is 1 and 6, 0xF9 is -0.5 and -6."""
    checkpoint = open_checkpoint(file_of(path, {"a": entry("F4", (2, 2), (0, 2))}, bytes([0x72, 0xF9])))
    assert [[1.0, 6.0], [-0.5, -6.0]] == checkpoint.read("a").tolist()
    assert -6.0 == checkpoint.scalar("a", 1, 1).value


def test_an_empty_tensor_is_no_fault(path, write_safetensors):
    """A tensor without elements takes no bytes, and reads as nothing."""
    checkpoint = open_checkpoint(write_safetensors(path, {"a": np.ones((0, 4), np.float32)}))
    assert (0, 4) == checkpoint.read("a").shape


@pytest.mark.parametrize("index", [(), (0,), (2, 0), (0, 3), (-1, 0), (0, 0, 0)])
def test_refuses_an_index_outside_the_tensor(path, write_safetensors, refusal, index):
    """A scalar takes one index for each dimension, within it."""
    checkpoint = open_checkpoint(write_safetensors(path, {"a": np.ones((2, 3), np.float32)}))
    assert f"index {list(index)} lies outside a of shape [2, 3]" == refusal(checkpoint.scalar, "a", *index)


def test_pieces_make_up_the_tensor(path, write_safetensors):
    """What is looked through in pieces is all of it, in order, scaled as in the model."""
    large = np.arange(3 * 2**17, dtype=np.float32)
    codes = np.arange(6, dtype=np.int8).reshape(2, 3)
    scale = np.float32([[2], [3]])
    tensors = {"large": large, "q.weight": codes, "q.weight_scale": scale, "none": large[:0]}
    checkpoint = open_checkpoint(write_safetensors(path, tensors))
    assert 2 == len(list(checkpoint.pieces("large")))
    assert np.array_equal(large, np.concatenate(list(checkpoint.pieces("large"))))
    assert [0, 2, 4, 9, 12, 15] == np.concatenate(list(checkpoint.pieces("q.weight"))).tolist()
    assert [] == list(checkpoint.pieces("none"))


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize(
    ("number", "expected"),
    [(0.0, Condition(True, True)), (1.0, Condition(True, False)), (np.nan, Condition(False, False))],
)
def test_one_number_decides_the_condition(path, write_safetensors, place, number, expected):
    """One number, in the first piece or the last, makes a tensor not finite, or not zero."""
    numbers = np.zeros(2**22 + 1, np.float32)
    numbers[place] = number
    checkpoint = open_checkpoint(write_safetensors(path, {"a": numbers, "empty": numbers[:0]}))
    assert expected == condition(checkpoint, "a")
    assert Condition(True, False) == condition(checkpoint, "empty")


@pytest.fixture
def sharded(tmp_path, write_safetensors):
    """Two shards and their index."""
    write_safetensors(tmp_path / "model-1.safetensors", {"a": np.full((2, 2), 1, np.float32)})
    write_safetensors(tmp_path / "model-2.safetensors", {"b": np.full((2, 2), 2, np.float32)})
    index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    return tmp_path


def index(directory, weight_map):
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_a_sharded_checkpoint_reads_as_one(sharded):
    """The index leads each name to its shard."""
    checkpoint = open_checkpoint(sharded)
    assert ["a", "b"] == list(checkpoint.tensors())
    assert (1.0, 2.0) == (checkpoint.scalar("a", 0, 0).value, checkpoint.scalar("b", 1, 1).value)


def test_a_missing_shard_is_noticed_when_opening(sharded, refusal):
    """A shard that is not there is named, though nothing of it is asked for."""
    (sharded / "model-2.safetensors").unlink()
    assert f"{sharded} lacks model-2.safetensors" in refusal(open_checkpoint, sharded)


def test_an_index_that_names_absent_tensors_is_noticed(sharded, refusal):
    """A tensor that its shard does not hold is named, with the shard."""
    index(sharded, {"a": "model-1.safetensors", "b": "model-1.safetensors"})
    checkpoint = open_checkpoint(sharded)
    assert "the index says that model-1.safetensors holds 'b', but it does not" in refusal(checkpoint.tensors)


@pytest.mark.parametrize("file", ["../elsewhere.safetensors", "/etc/passwd", "sub/x.safetensors", "x.bin", 7])
def test_an_index_leads_nowhere_else(sharded, refusal, file):
    """A shard lies beside its index: no path, no other kind of file."""
    index(sharded, {"a": file})
    assert f"maps 'a' to {file!r}" in refusal(open_checkpoint, sharded)


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": {}}', '{"weight_map": []}', "{}"])
def test_refuses_an_index_without_a_map(sharded, refusal, text):
    """An index that maps nothing is named."""
    (sharded / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in refusal(open_checkpoint, sharded)


def test_a_directory_without_weights_says_what_else_it_holds(tmp_path, refusal):
    """A directory of GGUF files is refused with the name of one to give instead."""
    assert "holds neither model.safetensors nor" in refusal(open_checkpoint, tmp_path)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert f"name the one that is meant: {tmp_path / 'm.gguf'}" in refusal(open_checkpoint, tmp_path)


def test_refuses_other_files(tmp_path, refusal):
    """What is not there, and what is of another kind, is named."""
    assert "there is no such file" in refusal(open_checkpoint, tmp_path / "absent.safetensors")
    (tmp_path / "m.bin").write_bytes(b"")
    assert "is neither a .safetensors nor a .gguf file" in refusal(open_checkpoint, tmp_path / "m.bin")
