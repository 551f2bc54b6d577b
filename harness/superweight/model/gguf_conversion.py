"""Convert a GGUF file to a safetensors copy of its dequantised weights, kept in the cache.

Reading a GGUF through transformers takes a dozen times as long as reading the copy, and a model
loaded from GGUF refuses ``save_pretrained``.
"""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import redirect_stderr
from pathlib import Path

from superweight.checkpoints.cache import Progress, cache_directory, get_or_build, sha256, silent
from superweight.checkpoints.cache_entries import RECORD, keep_within_limit
from superweight.checkpoints.gguf_parts import local_parts, unite
from superweight.checkpoints.tensors.checkpoint import json_object
from superweight.checkpoints.tensors.files import LocalFile
from superweight.checkpoints.tensors.gguf import read_header
from superweight.core.errors import BadInput
from superweight.core.reason import reason
from superweight.model.gguf_tensors import can_stream
from superweight.model.gguf_writing import write_streamed, write_whole

# Raise when what is written below changes, so that old copies are not read. Copies of format 1 may
# hold random numbers where their GGUF had a gap; those of format 2 are float32 throughout.
_FORMAT = 3


def converted_copy(gguf: Path, progress: Progress = silent) -> Path:
    """Return a directory that ``from_pretrained`` reads: plain weights, config, tokenizer.

    Numbers are in 16 bits where that is exact. Those of a model of more than 4 GB in float32 are in 16
    bits also where each is moved by less than half a step of its quantiser; else they are float32.

    Of a GGUF in parts any part may be given; all of them are used. The copy is keyed by the SHA-256
    of what it was made from and records it. Raises `BadInput` when a part is missing, when
    transformers cannot read the file, and when it would fill a gap in it with random numbers or
    leave a block of it out.
    """
    parts = local_parts(gguf)
    digest = _sha256_of_all(parts)
    destination = cache_directory() / "converted" / f"{digest[:16]}-v{_FORMAT}"

    def build(scratch: Path) -> None:
        progress(f"converting {gguf.name}, once")
        scratch.mkdir()
        _convert(_united(parts, scratch.parent), gguf, digest, scratch)

    copy = get_or_build(destination, build)
    keep_within_limit(copy)
    return copy


def original_sha256(directory: Path) -> str | None:
    """Return the SHA-256 of the GGUF that a converted copy was made from, if it is one."""
    record = _record(directory)
    return None if record is None else str(record["sha256"])


def rounding(directory: Path) -> str | None:
    """Return what a converted copy holds in 16 bits that are not exact; None where all numbers are."""
    counts = (_record(directory) or {}).get("numbers")
    kept = counts if isinstance(counts, dict) else {}
    return "; ".join(how for how in kept if not how.endswith("exact")) or None


def _record(directory: Path) -> dict[str, object] | None:
    path = directory / RECORD
    return json_object(path.read_bytes(), str(path)) if path.is_file() else None


def _sha256_of_all(parts: list[Path]) -> str:
    """Return the SHA-256 of a file, or of several files' digests, as for shards."""
    digests = [sha256(part) for part in parts]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _united(parts: list[Path], scratch: Path) -> Path:
    """Return one GGUF file that holds what the parts hold: transformers reads one file only."""
    if len(parts) == 1:
        return parts[0]
    return unite(parts, scratch / "united.gguf")


def _convert(whole: Path, gguf: Path, digest: str, scratch: Path) -> None:
    """Write the copy of ``whole`` to ``scratch``; ``gguf`` is what a person calls it."""
    # Imported here: both take seconds, and a cached copy needs neither.
    import torch
    import transformers
    from safetensors import SafetensorError

    from superweight.model.gguf_config import gguf_config
    from superweight.model.tokenizer import tokenizer_fault
    from superweight.model.validation import quiet_transformers

    where = {"pretrained_model_name_or_path": str(whole.parent), "gguf_file": whole.name}
    try:
        # Two progress bars of theirs go to stderr, terminal or not; ours says what goes on.
        with quiet_transformers(), redirect_stderr(io.StringIO()):
            _, metadata = read_header(LocalFile(whole, whole.stat().st_size))
            config = gguf_config(str(whole.parent), whole.name, metadata)
            architecture = str(metadata.get("general.architecture", ""))
            if can_stream(architecture):
                stored = write_streamed(whole, gguf, architecture, config, scratch)
            else:
                stored = write_whole(whole, gguf, config, scratch)
    except (BadInput, OSError):
        raise
    # What the system says, wrapped in an exception of its own that is none of the system's.
    except SafetensorError as error:
        raise OSError(str(error)) from error
    # gguf and transformers raise whatever the bytes provoke (KeyError, struct.error, ...).
    except Exception as error:
        raise BadInput(f"transformers cannot read {gguf}: {reason(error)}") from error
    try:
        with quiet_transformers(), redirect_stderr(io.StringIO()):
            tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    except Exception as error:
        raise tokenizer_fault(error, whole, gguf) from error
    tokenizer.save_pretrained(scratch)
    record = {
        "file": gguf.name,
        "sha256": digest,
        "numbers": stored,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    (scratch / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
