"""Files of any content, as hypothesis thinks of them: each is read, or refused in one line that names it.

Atheris follows the branches of the two header readers (`fuzz.py`); hypothesis knows what a header looks
like, and reads whatever else a person may hand over, too.
"""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from superweight.checkpoints.tensors.safetensors import _BITS
from superweight.claims import baselines
from superweight.core.errors import BadInput
from superweight.release.limits import Limits, read_limits
from superweight.report.document import read_document
from tests.fault_injection.reading import read_all

# A shared folder: every example writes its file anew.
many = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

counts = st.integers(0, 8) | st.sampled_from([-1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**4000])
anything = st.recursive(
    st.none() | st.booleans() | counts | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.text(max_size=8) | st.sampled_from(["model.layers.0.mlp.down_proj.weight", "\n", "__metadata__"])
places = st.sampled_from(["m.safetensors", "../m.safetensors", "", "a/b"])
dtypes = st.sampled_from([*_BITS, "Q4_0", "", "\n"])
# Listed in a header, and refused when their numbers are asked for.
UNREAD = ("C64", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")


def held(read, path):
    """Read a file and return whether it was taken; what is refused must be so in one line that names it."""
    before = path.read_bytes()
    try:
        read(path)
        taken = True
    except BadInput as refusal:
        said = str(refusal)
        assert 1 == len(said.splitlines()), said
        assert path.name in said or path.parent.name in said
        taken = False
    assert before == path.read_bytes()
    return taken


def write_header(path, header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


@many
@given(
    header=anything
    | st.dictionaries(
        names,
        anything
        | st.fixed_dictionaries(
            {
                "dtype": dtypes | anything,
                "shape": st.lists(counts, max_size=3) | anything,
                "data_offsets": st.tuples(counts, counts) | anything,
            }
        ),
        max_size=3,
    ),
    body=st.binary(max_size=64),
)
def test_any_safetensors_header_is_read_or_refused(tmp_path, header, body):
    """Objects that are nearly a header: every part of an entry may be what it should be, or anything."""
    path = tmp_path / "m.safetensors"
    write_header(path, header, body)
    held(read_all, path)


@many
@given(dtype=st.sampled_from(sorted(_BITS)), rows=st.integers(0, 5), cols=st.integers(0, 5), lie=counts)
def test_an_honest_safetensors_header_is_read_and_a_lie_is_not(tmp_path, dtype, rows, cols, lie):
    """What the format allows is taken by the same readers; the same header of another length is not."""
    path, bits = tmp_path / "m.safetensors", _BITS[dtype] * rows * cols
    assume(bits % 8 == 0)
    header = {"w": {"dtype": dtype, "shape": [rows, cols], "data_offsets": [0, bits // 8]}}
    write_header(path, header, bytes(bits // 8))
    taken = held(read_all, path)
    assert taken is (dtype not in UNREAD or 0 in (rows, cols))
    header["w"]["data_offsets"][1] = lie
    if lie != bits // 8:
        write_header(path, header, bytes(bits // 8))
        assert not held(read_all, path)


def gguf_text(text):
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


gguf_names = (st.text(max_size=8) | st.just("general.alignment") | st.binary(max_size=8)).map(gguf_text)
numbers = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 32, 64, 2**31, 2**32 - 1])
longs = st.integers(0, 3) | st.sampled_from([32, 64, 2**32, 2**62, 2**63, 2**64 - 1])
values = st.one_of(
    st.tuples(st.just(4), numbers).map(lambda pair: struct.pack("<II", *pair)),
    gguf_names.map(lambda text: struct.pack("<I", 8) + text),
    st.tuples(numbers, longs, st.binary(max_size=32)).map(
        lambda array: struct.pack("<IIQ", 9, *array[:2]) + array[2]
    ),
    st.binary(max_size=16),
)
entries = st.tuples(gguf_names, values).map(b"".join)
tensors = st.tuples(gguf_names, st.lists(longs, max_size=5), numbers, longs).map(
    lambda part: (
        part[0]
        + struct.pack(f"<I{len(part[1])}Q", len(part[1]), *part[1])
        + struct.pack("<IQ", part[2], part[3])
    )
)


@many
@given(
    version=st.sampled_from([2, 3, 3, 3, 1, 2**31]),
    metadata=st.lists(entries, max_size=4),
    listed=st.lists(tensors, max_size=3),
    lies=st.tuples(longs, longs) | st.none(),
    body=st.binary(max_size=256),
)
def test_any_gguf_header_is_read_or_refused(tmp_path, version, metadata, listed, lies, body):
    """Values, arrays and tensors in the format's own grammar, with lengths and counts that may lie."""
    path = tmp_path / "m.gguf"
    count = lies or (len(listed), len(metadata))
    head = b"GGUF" + struct.pack("<IQQ", version, *count)
    path.write_bytes(head + b"".join(metadata) + b"".join(listed) + body)
    held(read_all, path)


@many
@given(
    index=anything
    | st.fixed_dictionaries({"weight_map": anything | st.dictionaries(names, places | anything)})
)
def test_any_index_is_read_or_refused(tmp_path, index):
    """The map from tensors to files: of any type, to files that are there, elsewhere, or no names."""
    folder = tmp_path / "sharded"
    folder.mkdir(exist_ok=True)
    write_header(folder / "m.safetensors", {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"a")
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    held(lambda path: read_all(path.parent), path)


@many
@given(content=anything.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=64))
@pytest.mark.parametrize("kind", ["report", "baseline", "limits"])
def test_any_other_file_is_read_or_refused(tmp_path, kind, content):
    """None of it is a report; a baseline that is none holds nothing; limits are the defaults."""
    path = tmp_path / {"report": "report.json", "baseline": "C1.json", "limits": "limits.toml"}[kind]
    path.write_bytes(content)
    if kind == "report":
        assert not held(read_document, path)
    elif kind == "baseline":
        assert held(baselines.read, path)
        assert {} == baselines.read(path)
    else:
        assert not held(read_limits, path) or Limits() == read_limits(path)


def test_a_header_whose_sums_are_too_long_to_write_is_refused(tmp_path):
    """Numbers of as many digits as Python reads, of which a sum has one more than it writes."""
    path, number = tmp_path / "m.safetensors", "9" * 4300
    entry = f'{{"dtype":"U8","shape":[{number}],"data_offsets":[0,{number}]}}'
    write_header(path, f'{{"a":{entry}}}'.encode(), b"")
    assert not held(read_all, path)
