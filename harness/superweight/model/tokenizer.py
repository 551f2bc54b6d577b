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
_READ_WITHOUT = (_FAST, "vocab.*", "tekken.json")
_VOCABULARIES = (*_READ_WITHOUT, *_SENTENCEPIECE, "*.tiktoken")
_IN_EXTRA = ("protobuf", "sentencepiece", "tiktoken")
_NAMED = re.compile(
    r"requires the (?P<library>\w+) library|`(?P<quoted>\w+)` is required|No module named '(?P<module>\w+)'"
)


def load_tokenizer(folder: Path, called: Path, *, remote_code: bool) -> PreTrainedTokenizerBase:
    """Load the tokenizer that lies in ``folder``, which a person calls ``called``.

    Raises `Unavailable` naming the package that it needs and that is not installed, and `BadInput`
    when the folder has none or one that cannot be read. transformers itself makes an empty tokenizer
    where it misses the file.
    """
    if not remote_code and (fault := _lack(folder, called)) is not None:
        raise fault
    try:
        loaded: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=remote_code, local_files_only=True
        )
    # Broken and foreign files make tokenizers and transformers raise whatever they meet.
    except Exception as error:
        raise tokenizer_fault(error, folder, called) from error
    if len(loaded) <= len(loaded.all_special_tokens):
        raise BadInput(
            f"{called}: its tokenizer came up as an empty {type(loaded).__name__}, because that class reads "
            f"none of the files here; copy {_FAST} from the base it was made from"
        )
    return loaded


def tokenizer_fault(error: Exception, folder: Path, called: Path) -> BadInput:
    """Return what kept a tokenizer from loading: a package, a file, or what the library said."""
    if (package := missing_package(error, folder)) is not None:
        return _uninstalled(package, called)
    return BadInput(f"{called}: its tokenizer does not load: {type(error).__name__}: {reason(error)}")


def _lack(folder: Path, called: Path) -> BadInput | None:
    """Return what a tokenizer lacks by the files of its folder alone, if it lacks anything."""
    if not any(any(folder.glob(pattern)) for pattern in _VOCABULARIES):
        return BadInput(
            f"{called} holds no tokenizer ({_FAST}); copy its files from the base it was made from"
        )
    package = next((package for package in _needed(folder) if not _installed(package)), None)
    return None if package is None else _uninstalled(package, called)


def _uninstalled(package: str, called: Path) -> Unavailable:
    instead = f"pip install '{EXTRA}'" if package in _IN_EXTRA else f"pip install {package}"
    return Unavailable(
        f"{called}: its tokenizer is read with the package {package}, which is not installed; {instead}"
    )


def missing_package(error: Exception, folder: Path) -> str | None:
    """Return which package a tokenizer needs and this environment lacks, by its files and the error."""
    needed = _needed(folder)
    if match := _NAMED.search(str(error)):
        needed.append(str(match["library"] or match["quoted"] or match["module"]).lower())
    return next((package for package in needed if not _installed(package)), None)


def _needed(folder: Path) -> list[str]:
    """Return which packages read the vocabulary of a folder that has no other."""
    if not folder.is_dir() or any(any(folder.glob(pattern)) for pattern in _READ_WITHOUT):
        return []
    models = [file for pattern in _SENTENCEPIECE for file in sorted(folder.glob(pattern))]
    # Some call a list of ranks tokenizer.model as well, which tiktoken reads.
    needed = ["sentencepiece" if _is_sentencepiece(file) else "tiktoken" for file in models]
    needed += ["tiktoken" for _ in folder.glob("*.tiktoken")]
    return needed + (["protobuf"] if "sentencepiece" in needed else [])


def _is_sentencepiece(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(1) == _SENTENCEPIECE_MAGIC


def _installed(package: str) -> bool:
    module = {"protobuf": "google.protobuf"}.get(package, package)
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
