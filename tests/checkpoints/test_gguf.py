"""The header of a GGUF file, and single numbers of what it lists."""

import struct

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from superweight.checkpoints.tensors.locations import locate, locations
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput
from tests.helpers.checkpoint_files import finish_gguf

NAME = "blk.1.ffn_down.weight"


def write(path, tensors, *, vocabulary=1000, alignment=None):
    """A GGUF file from the reference writer: name -> (array, type)."""
    writer = gguf.GGUFWriter(path, "llama")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_block_count(2)
    writer.add_token_list([f"token {number}" for number in range(vocabulary)])
    writer.add_array("scores", [0.5] * vocabulary)
    writer.add_array("flags", [True, False])
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, quantize(array, kind), raw_dtype=kind)
    finish_gguf(writer)
    return path


@pytest.fixture
def matrix():
    """(hidden, intermediate) = (64, 96), with one super weight."""
    numbers = np.random.default_rng(0).normal(scale=0.02, size=(64, 96)).astype(np.float32)
    numbers[41, 23] = 4.0
    return numbers


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0"])
def test_reads_what_the_reference_writer_writes(tmp_path, matrix, kind):
    """Every number, row and matrix is what gguf itself dequantises, with the outputs as rows."""
    if kind == "TQ1_0":  # its blocks hold 256 numbers
        matrix = np.tile(matrix, (1, 8))
    kind = GGMLQuantizationType[kind]
    path = write(tmp_path / "m.gguf", {"other": (matrix, kind), NAME: (matrix, kind)})
    expected = dequantize(quantize(matrix, kind), kind).reshape(matrix.shape)
    checkpoint = open_checkpoint(path)
    assert (kind.name, matrix.shape) == (checkpoint.info(NAME).dtype, checkpoint.info(NAME).shape)
    assert np.array_equal(expected, checkpoint.read(NAME))
    assert np.array_equal(expected[41], checkpoint.row(NAME, 41))
    for row, col in ((0, 0), (41, 23), (63, 95)):
        assert float(expected[row, col]) == checkpoint.scalar(NAME, row, col).value
        assert expected[row, col] == checkpoint.read(NAME, row, col)


def test_the_step_of_a_plain_type_is_none(tmp_path, matrix):
    """What is not quantised has no step; what is has its block's."""
    tensors = {"a": (matrix, GGMLQuantizationType.F16), "b": (matrix, GGMLQuantizationType.Q8_0)}
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf", tensors))
    assert checkpoint.scalar("a", 41, 23).step is None
    assert 4.0 / 127 == pytest.approx(checkpoint.scalar("b", 41, 23).step, rel=1e-3)


def test_only_the_block_of_a_scalar_is_read(tmp_path, matrix, monkeypatch):
    """One number of a Q8_0 matrix takes the 34 bytes of its block."""
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf", {NAME: (matrix, GGMLQuantizationType.Q8_0)}))
    file, spans = type(checkpoint.info(NAME).file), []
    read = file.read
    monkeypatch.setattr(
        file, "read", lambda self, start, end: spans.append(end - start) or read(self, start, end)
    )
    checkpoint.scalar(NAME, 41, 23)
    assert [34] == spans


def test_a_header_longer_than_a_piece_is_read(tmp_path, matrix):
    """A vocabulary of several megabytes is passed over in several reads."""
    path = write(tmp_path / "m.gguf", {NAME: (matrix, GGMLQuantizationType.F32)}, vocabulary=200_000)
    assert 2 * 2**20 < path.stat().st_size
    assert 4.0 == open_checkpoint(path).scalar(NAME, 41, 23).value


def test_another_alignment_is_honoured(tmp_path, matrix):
    """The data begins where general.alignment says."""
    tensors = dict.fromkeys(("a", NAME), (matrix[:3], GGMLQuantizationType.Q8_0))
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf", tensors, alignment=4096))
    assert 0 == checkpoint.info(NAME).start % 4096
    assert checkpoint.read("a").tolist() == checkpoint.read(NAME).tolist()


def test_every_truncation_is_noticed(tmp_path, matrix, refusal):
    """A file cut at any twentieth is refused when it is opened."""
    path = write(tmp_path / "m.gguf", {NAME: (matrix, GGMLQuantizationType.F32)}, vocabulary=2000)
    content = path.read_bytes()
    for twentieth in range(20):
        path.write_bytes(content[: len(content) * twentieth // 20])
        assert str(path) in refusal(open_checkpoint, path)
    path.write_bytes(content[:-1])
    assert "truncated" in refusal(open_checkpoint, path)


def test_no_damaged_header_goes_through_as_an_exception(tmp_path, matrix):
    """Whatever byte of the header is changed, the file is read or refused in one line."""
    path = write(tmp_path / "m.gguf", {NAME: (matrix, GGMLQuantizationType.Q4_0)}, vocabulary=3)
    content = path.read_bytes()
    refusals = []
    for place in range(open_checkpoint(path).info(NAME).start):
        for value in (0, 0xFF, content[place] ^ 1):
            path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            try:
                open_checkpoint(path)
            except BadInput as error:
                refusals.append(str(error))
    assert 200 < len(refusals)
    assert [] == [refusal for refusal in refusals if 1 != len(refusal.splitlines())]


def header(*entries, values=b"", version=3, count=None):
    """A GGUF header by hand: entries of (name, dimensions, type, offset)."""
    count = len(entries) if count is None else count
    text = b"GGUF" + struct.pack("<IQQ", version, count, 1 if values else 0) + values
    for name, dimensions, kind, offset in entries:
        text += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(dimensions))
        text += struct.pack(f"<{len(dimensions)}QIQ", *dimensions, kind, offset)
    return text + bytes(-len(text) % 32)


def value(name, kind, payload):
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + payload


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "does not begin with the GGUF magic"),
        (b"GGML" + bytes(100), "does not begin with the GGUF magic"),
        (header(version=1), "GGUF of version 1"),
        (header(version=3 << 24), "GGUF of version"),
        (header(count=2**60), "more than fit"),
        (header((b"a", (32,), 0, 0)), "truncated"),
        (header((b"a", (32,), 99, 0)) + bytes(128), "unknown type 99"),
        (header((b"a", (33,), 8, 0)) + bytes(128), "does not divide into the blocks of 32 that Q8_0 has"),
        (header((b"a", (), 8, 0)) + bytes(128), "does not divide"),
        (header((b"a", (1, 1, 1, 1, 1), 0, 0)) + bytes(128), "misshapen"),
        (header((b"a", (8,), 0, 0), (b"a", (8,), 0, 32)) + bytes(128), "listed twice"),
        (header((b"a", (8,), 0, 0), (b"b", (8,), 0, 16)) + bytes(128), "'a' and 'b' overlap"),
        (header((b"\xff", (8,), 0, 0)) + bytes(128), "no UTF-8"),
        (header(values=value(b"general.alignment", 4, struct.pack("<I", 3))), "no power of two"),
        (header(values=value(b"x", 77, b"")), "unknown type 77"),
        (header(values=value(b"x", 9, struct.pack("<IQ", 9, 1)) + bytes(99)), "array of type 9"),
        (header(values=value(b"x", 9, struct.pack("<IQ", 8, 2**62))), "ends within its GGUF header"),
        (header(values=value(b"x", 8, struct.pack("<Q", 2**63))), "ends within its GGUF header"),
    ],
)
def test_refuses_headers_that_lie(tmp_path, refusal, content, fault):
    """Each fault is one line that names the file."""
    (tmp_path / "m.gguf").write_bytes(content)
    message = refusal(open_checkpoint, tmp_path / "m.gguf")
    assert str(tmp_path / "m.gguf") in message
    assert fault in message


def test_the_parts_of_a_split_file_read_as_one(tmp_path, matrix, refusal):
    """Any part stands for all; a part that is missing is named."""
    first, second = (tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2))
    write(first, {"blk.0.ffn_down.weight": (matrix, GGMLQuantizationType.F32)})
    write(second, {NAME: (matrix, GGMLQuantizationType.F32)})
    checkpoint = open_checkpoint(second)
    assert 2 == len(locations(checkpoint))
    assert 4.0 == checkpoint.scalar(NAME, 41, 23).value
    write(second, {"blk.0.ffn_down.weight": (matrix, GGMLQuantizationType.F32)})
    assert f"'blk.0.ffn_down.weight' is in {first.name} and in {second.name}" in refusal(
        open_checkpoint, first
    )
    second.unlink()
    assert f"{tmp_path} lacks {second.name}" in refusal(open_checkpoint, first)


def test_experts_and_the_shared_one_are_found(tmp_path, matrix):
    """Routed experts lie in one tensor, the shared one beside it, and old files keep one tensor each."""
    experts = np.stack([matrix, matrix + 1, matrix + 2])
    kind = GGMLQuantizationType.Q8_0
    tensors = {
        "blk.0.ffn_down_exps.weight": (experts, kind),
        "blk.0.ffn_down_shexp.weight": (matrix + 3, kind),
        "blk.1.ffn_down.0.weight": (matrix, kind),
        "blk.1.ffn_down.1.weight": (matrix + 1, kind),
        "v.blk.0.ffn_down.weight": (matrix, kind),
    }
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf", tensors))
    coordinates = [Coordinate.of(*place) for place in ((0, 2, 41, 23), (0, 41, 23), (1, 1, 41, 23))]
    found = locate(checkpoint, *coordinates)
    values = [location.scalar(checkpoint, 41, 23).value for location in found]
    assert [6.0, 7.0, 5.0] == pytest.approx(values, abs=0.05)
    assert [(64, 96)] * 3 == [location.shape for location in found]
    assert 6.0 == pytest.approx(found[0].row(checkpoint, 41)[23], abs=0.05)
    assert 6.0 == pytest.approx(found[0].matrix(checkpoint)[41, 23], abs=0.05)
    places = [(location.layer, location.expert) for location in locations(checkpoint)]
    assert [(0, None), (0, 0), (0, 1), (0, 2), (1, 0), (1, 1)] == sorted(
        places, key=lambda place: (place[0], -1 if place[1] is None else place[1])
    )
