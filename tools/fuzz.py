"""Fuzz the readers of safetensors and GGUF files with atheris, and keep what it learnt.

    pip install atheris
    python tools/fuzz.py safetensors CORPUS -max_total_time=600
    python tools/fuzz.py gguf CORPUS -max_total_time=600

A reader may read a file or refuse it in one line that names it (`BadInput`); anything else is a finding, and
libFuzzer writes the bytes that provoke it. CORPUS is a directory; an empty one is given a sound
file to begin with. What follows are libFuzzer's own options. What ten minutes of each led to is kept
in tests/fault_injection/corpus, and read by test_corpus.py in every run.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(REPOSITORY / "harness"), str(REPOSITORY)]

with atheris.instrument_imports(include=["superweight"]):
    from superweight.core.errors import BadInput
    from tests.fault_injection.reading import read_all

KINDS = ("safetensors", "gguf")
# A file's header is what is hard to read; more bytes only make a round slower.
LONGEST = 4096


def sound_file(kind: str) -> bytes:
    """Return a small file that the reader accepts."""
    if kind == "safetensors":
        header = b'{"model.layers.0.mlp.down_proj.weight":'
        header += b'{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'
        return len(header).to_bytes(8, "little") + header + bytes(16)
    import gguf
    import numpy as np

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "sound.gguf")
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_block_count(1)
        writer.add_token_list(["a", "b"])
        writer.add_tensor("blk.0.ffn_down.weight", np.zeros((2, 32), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1] not in KINDS:
        sys.exit(str(__doc__))
    kind, corpus = sys.argv.pop(1), Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        (corpus / "sound").write_bytes(sound_file(kind))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, f"m.{kind}")

        def one(data: bytes) -> None:
            path.write_bytes(data)
            try:
                read_all(path)
            except BadInput as refusal:
                if len(str(refusal).splitlines()) != 1 or path.name not in str(refusal):
                    raise RuntimeError("a refusal of several lines, or of no file") from refusal

        atheris.Setup([*sys.argv, f"-max_len={LONGEST}"], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
