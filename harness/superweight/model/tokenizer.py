"""Load a model's tokenizer, and say which package or file it lacks."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import transformers
from transformers import PreTrainedTokenizerBase

from superweight.core.errors import BadInput, Unavailable
from superweight.core.reason import reason

EXTRA = "superweight-harness[tokenizers]"
_FAST = "tokenizer.json"
# SentencePiece models are protocol buffers that begin with a field of this number and kind.
_SENTENCEPIECE_MAGIC = b"\n"
_SENTENCEPIECE = ("*.model", "*.spm", "spiece.*")
_VOCABULARIES = (_FAST, *_SENTENCEPIECE, "*.tiktoken", "vocab.*", "merges.txt")
_NAMED = re.compile(
    r"requires the (?P<library>\w+) library|`(?P<quoted>\w+)` is required|No module named '(?P<module>\w+)'"
)


def load_tokenizer(folder: Path, called: Path, *, remote_code: bool) -> PreTrainedTokenizerBase:
    """Load the tokenizer that lies in ``folder``, which a person calls ``called``.

    Raises `Unavailable` naming the package that it needs and that is not installed, and `BadInput`
    when the folder has none or one that cannot be read.
    """
    try:
        loaded: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=remote_code, local_files_only=True
        )
    # Broken and foreign files make tokenizers and transformers raise whatever they meet.
    except Exception as error:
        raise tokenizer_fault(error, folder, called) from error
    return loaded


def tokenizer_fault(error: Exception, folder: Path, called: Path) -> BadInput:
    """Return what kept a tokenizer from loading: a package, a file, or what the library said."""
    if (package := missing_package(error, folder)) is not None:
        return Unavailable(
            f"{called}: its tokenizer is read with the package {package}, which is not installed; "
            f"pip install '{EXTRA}'"
        )
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _VOCABULARIES):
        return BadInput(
            f"{called} holds no tokenizer ({_FAST}); copy its files from the base it was made from"
        )
    return BadInput(f"{called}: its tokenizer does not load: {type(error).__name__}: {reason(error)}")


def missing_package(error: Exception, folder: Path) -> str | None:
    """Return which package a tokenizer needs and this environment lacks, by its files and the error."""
    needed = []
    if folder.is_dir() and not (folder / _FAST).is_file():
        models = [file for pattern in _SENTENCEPIECE for file in sorted(folder.glob(pattern))]
        # Some call a list of ranks tokenizer.model as well, which tiktoken reads.
        needed += ["sentencepiece" if _is_sentencepiece(file) else "tiktoken" for file in models]
        needed += ["tiktoken" for _ in folder.glob("*.tiktoken")]
        needed += ["protobuf"] if "sentencepiece" in needed else []
    if match := _NAMED.search(str(error)):
        needed.append(str(match["library"] or match["quoted"] or match["module"]).lower())
    return next((package for package in needed if not _installed(package)), None)


def _is_sentencepiece(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(1) == _SENTENCEPIECE_MAGIC


def _installed(package: str) -> bool:
    module = {"protobuf": "google.protobuf"}.get(package, package)
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
