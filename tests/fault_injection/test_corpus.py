"""What fuzzing the readers led to: bytes that reach every branch found so far, read again every time."""

from __future__ import annotations

from pathlib import Path

import pytest

from superweight.core.errors import BadInput
from tests.fault_injection.reading import read_all

CORPUS = Path(__file__).with_name("corpus")


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_every_file_is_read_or_refused_in_one_line(kind, tmp_path, record_property):
    """Whatever the bytes: numbers, or a line that names the file; and both happen."""
    path = tmp_path / f"m.{kind}"
    read, refused = [], {}
    for kept in sorted((CORPUS / kind).iterdir()):
        path.write_bytes(kept.read_bytes())
        try:
            read_all(path)
            read.append(kept.name)
        except BadInput as refusal:
            refused[kept.name] = str(refusal)
    record_property("outcomes", {"read": len(read), "refused": len(refused)})
    assert read
    assert refused
    assert {} == {name: said for name, said in refused.items() if "\n" in said or path.name not in said}
