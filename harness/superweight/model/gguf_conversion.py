"""A safetensors copy of a GGUF file's dequantised weights, kept in the cache.

Reading a GGUF through transformers takes a dozen times as long as reading the copy, and a model
loaded from GGUF refuses ``save_pretrained``.
"""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superweight.checkpoints.cache import Progress, cache_directory, get_or_build, sha256, silent
from superweight.checkpoints.gguf_parts import local_parts, unite
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.core.errors import BadInput
from superweight.core.reason import reason

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

RECORD = "converted-from.json"
# Raise when what is written below changes, so that old copies are not read. Copies of format 1 may
# hold random numbers where their GGUF had a gap.
_FORMAT = 2
_METADATA = "its metadata"


def converted_copy(gguf: Path, progress: Progress = silent) -> Path:
    """Return a directory that ``from_pretrained`` reads: float32 weights, config, tokenizer.

    Of a GGUF in parts any part may be given; all of them are used. The copy is keyed by the SHA-256
    of what it was made from and records it. Raises `BadInput` when a part is missing, when
    transformers cannot read the file, and when it would fill a gap in it with random numbers or
    leave a block of it out.
    """
    parts = local_parts(gguf)
    digest = _sha256_of_all(parts)
    destination = cache_directory() / "converted" / f"{digest[:16]}-float32-v{_FORMAT}"

    def build(scratch: Path) -> None:
        progress(f"converting {gguf.name}, once")
        scratch.mkdir()
        _convert(_united(parts, scratch.parent), gguf, digest, scratch)

    return get_or_build(destination, build)


def original_sha256(directory: Path) -> str | None:
    """Return the SHA-256 of the GGUF that a converted copy was made from, if it is one."""
    record = directory / RECORD
    if not record.is_file():
        return None
    return str(json.loads(record.read_text(encoding="utf-8"))["sha256"])


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
    from safetensors.torch import save_file

    from superweight.model.tokenizer import tokenizer_fault
    from superweight.model.validation import quiet_transformers, refuse_broken_numbers, refuse_gaps

    where = {"pretrained_model_name_or_path": str(whole.parent), "gguf_file": whole.name}
    try:
        # Two progress bars of theirs go to stderr, terminal or not; ours says what goes on.
        with quiet_transformers(), redirect_stderr(io.StringIO()):
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                **where,
                dtype=torch.float32,
                # Reported, and refused below in words of our own.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        model, report = loaded
    # gguf and transformers raise whatever the bytes provoke (KeyError, struct.error, ...).
    except Exception as error:
        raise BadInput(f"transformers cannot read {gguf}: {reason(error)}") from error
    try:
        with quiet_transformers(), redirect_stderr(io.StringIO()):
            tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    except Exception as error:
        raise tokenizer_fault(error, whole, gguf) from error
    # Or the cache would keep a copy that nobody can use. What it leaves out transformers does not report.
    refuse_gaps(model, {**report, "unexpected_keys": _left_out(whole)}, gguf, _METADATA)
    refuse_broken_numbers(model, gguf)
    try:
        save_file(_distinct_tensors(model), scratch / "model.safetensors", metadata={"format": "pt"})
    # What the system says, wrapped in an exception of its own that is none of the system's.
    except SafetensorError as error:
        raise OSError(str(error)) from error
    config = model.config
    # The copy is plain float32: left in place, this entry would ask for the GGUF again.
    del config.quantization_config
    config.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    record = {
        "file": gguf.name,
        "sha256": digest,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    (scratch / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _left_out(gguf: Path) -> list[str]:
    """Return the names of all tensors of decoder blocks, of which `refuse_gaps` finds those beyond the last.

    A block that predicts more tokens is stored after those of the decoder, which do without it.
    """
    names = [name for name in open_checkpoint(gguf).files if name.startswith("blk.")]
    beside = {name.split(".")[1] for name in names if ".nextn." in name}
    return [name for name in names if name.split(".")[1] not in beside]


def _distinct_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the state dict without tensors that are tied to an earlier one."""
    seen: set[int] = set()
    distinct = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            distinct[name] = tensor.contiguous()
    return distinct
