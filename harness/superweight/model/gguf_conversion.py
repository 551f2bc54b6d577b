"""A safetensors copy of a GGUF file's dequantised weights, kept in the cache.

Reading a GGUF through transformers takes a dozen times as long as reading the copy, and a model
loaded from GGUF refuses ``save_pretrained``.
"""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from superweight.checkpoints.cache import Progress, cache_directory, get_or_build, sha256, silent
from superweight.core.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

RECORD = "converted-from.json"
_FORMAT = 1  # raise when what is written below changes, so that old copies are not read


def converted_copy(gguf: Path, progress: Progress = silent) -> Path:
    """Return a directory that ``from_pretrained`` reads: float32 weights, config, tokenizer.

    The copy is keyed by the GGUF's SHA-256 and records it. Raises `BadInput` when transformers
    cannot read the file.
    """
    digest = sha256(gguf)
    destination = cache_directory() / "converted" / f"{digest[:16]}-float32-v{_FORMAT}"

    def build(scratch: Path) -> None:
        progress(f"converting {gguf.name}, once")
        _convert(gguf, digest, scratch)

    return get_or_build(destination, build)


def original_sha256(directory: Path) -> str | None:
    """Return the SHA-256 of the GGUF that a converted copy was made from, if it is one."""
    record = directory / RECORD
    if not record.is_file():
        return None
    return str(json.loads(record.read_text(encoding="utf-8"))["sha256"])


def _convert(gguf: Path, digest: str, scratch: Path) -> None:
    # Imported here: both take seconds, and a cached copy needs neither.
    import torch
    import transformers
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from superweight.model.validation import quiet_transformers, refuse_broken_numbers

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        # Two progress bars of theirs go to stderr, terminal or not; ours says what goes on.
        with quiet_transformers(), redirect_stderr(io.StringIO()):
            model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
            tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    # gguf and transformers raise whatever the bytes provoke (KeyError, struct.error, ...).
    except Exception as error:
        raise BadInput(f"transformers cannot read {gguf}: {error}".splitlines()[0]) from error
    refuse_broken_numbers(model, gguf)  # or the cache would keep a copy that nobody can use
    scratch.mkdir()
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


def _distinct_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the state dict without tensors that are tied to an earlier one."""
    seen: set[int] = set()
    distinct = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            distinct[name] = tensor.contiguous()
    return distinct
