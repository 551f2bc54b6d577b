"""Bring a model from the hub, or from its cache on this machine."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from superweight.checkpoints.cache import Progress
from superweight.checkpoints.hub_source import HubSource
from superweight.checkpoints.local_model import (
    LocalModel,
    checked_directory,
    checked_gguf,
    refuse_no_weights,
)
from superweight.checkpoints.recognition import Document, names_in
from superweight.checkpoints.tensors.open import gguf_parts
from superweight.core.errors import BadInput, Unavailable
from superweight.core.reason import reason

# What the hub's repositories hold beside the checkpoint that transformers reads.
_HUB_OTHERS = ("consolidated*", "original/*")
_HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "tokenizer*", "*.txt")
# One attempt of this many seconds; the hub client's own retries would take 25.
_HUB_TIMEOUT = 4.0
_HUB = "https://huggingface.co"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def fetch_from_hub(wanted: HubSource, *, allow_pickle: bool, progress: Progress) -> LocalModel:
    # Imported here: the hub client takes longer to import than the rest of this module to run.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo, revision = wanted.repo, wanted.revision

    def checked(folder: Path) -> LocalModel:
        if wanted.file is None:
            return checked_directory(folder, allow_pickle=allow_pickle, revision=folder.name)
        return replace(checked_gguf(folder / wanted.choose(names_in(folder))), revision=folder.name)

    patterns = [*_HUB_FILES, *(_PICKLED if allow_pickle else ())]
    left_out = list(_HUB_OTHERS)
    # What is asked for must be there, not all that the repository holds: nobody fetched its readme.
    looked_for = patterns if wanted.file is None else []
    unusable: str | None = None
    in_part = cached_snapshot(replace(wanted, file=None).address)
    try:
        return checked(
            Path(
                snapshot_download(
                    repo,
                    revision=revision,
                    local_files_only=True,
                    allow_patterns=looked_for,
                    ignore_patterns=left_out,
                )
            )
        )
    except LocalEntryNotFoundError as error:
        unusable = None if in_part is None else reason(error)
    except BadInput as error:
        unusable = str(error)  # only partly here: ask the hub
    try:
        names = _files(repo, revision)
        if wanted.file is not None:
            patterns, left_out = gguf_parts(wanted.choose(names)), []
        else:
            if names:  # a mirror may leave them out
                refuse_no_weights(
                    repo, names, _hub_document(wanted, names), allow_pickle=allow_pickle, join=":"
                )
        progress(f"downloading {repo}")
        downloaded = snapshot_download(
            repo, revision=revision, allow_patterns=patterns, ignore_patterns=left_out
        )
    except BadInput as error:
        raise Unavailable(str(error)) from error
    # The client passes on whatever its HTTP library raises, so no narrower class covers it.
    except Exception as error:
        if in_part is not None:
            try:
                return checked(in_part)  # all that loading needs may be there
            except BadInput as fault:
                unusable = str(fault)
        raise Unavailable(_why_not(repo, revision, error, unusable)) from error
    return checked(Path(downloaded))


def cached_snapshot(source: str) -> Path | None:
    """Return what the hub's cache holds of a model, perhaps only in part; None for nothing.

    Where the source names a GGUF file, that file is returned.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    wanted = HubSource.parse(source)
    if wanted is None:
        return None
    try:
        # With no pattern for what should be there, the client does not ask that everything is.
        found = Path(
            snapshot_download(wanted.repo, revision=wanted.revision, local_files_only=True, allow_patterns=[])
        )
        return found if wanted.file is None else found / wanted.choose(names_in(found))
    except (LocalEntryNotFoundError, HFValidationError, BadInput):
        return None


def listed_files(repo: str, revision: str | None) -> tuple[str, ...] | Exception:
    """Return what a repository holds, or why the hub does not say.

    The answer is kept for a minute: who asks what a model is and then brings it asks the hub once.
    """
    return _listed(repo, revision, int(time.monotonic() // 60))


@lru_cache(maxsize=64)
def _listed(repo: str, revision: str | None, minute: int) -> tuple[str, ...] | Exception:
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repo, revision=revision, timeout=_HUB_TIMEOUT)
    # The client passes on whatever its HTTP library raises, so no narrower class covers it.
    except Exception as error:
        return error.with_traceback(None)  # which would keep what called alive
    return tuple(file.rfilename for file in info.siblings or ())


def _files(repo: str, revision: str | None) -> tuple[str, ...]:
    names = listed_files(repo, revision)
    if isinstance(names, Exception):
        raise names.with_traceback(None)
    return names


def hub_address(wanted: HubSource) -> str:
    """Return the hf:// address of a model on the hub; which GGUF file is meant is asked of the hub.

    Raises `Unavailable` when the hub cannot be asked, and `BadInput` when it has no such file.
    """
    revision = "" if wanted.revision is None else f"@{wanted.revision}"
    address = f"hf://{wanted.repo}{revision}"
    if wanted.file is None:
        return address
    if wanted.file.endswith(".gguf"):
        return f"{address}/{wanted.file}"
    try:
        names = _files(wanted.repo, wanted.revision)
    # The client passes on whatever its HTTP library raises, so no narrower class covers it.
    except Exception as error:
        raise Unavailable(_why_not(wanted.repo, wanted.revision, error, None)) from error
    return f"{address}/{wanted.choose(names)}"


def refuse_repository(wanted: HubSource) -> None:
    """Raise `BadInput` where a repository holds no weights that transformers loads, naming what it is.

    Where the hub does not say what a repository holds, nothing is raised.
    """
    names = listed_files(wanted.repo, wanted.revision)
    if isinstance(names, Exception):
        return
    refuse_no_weights(wanted.repo, names, _hub_document(wanted, names), join=":")


def _hub_document(wanted: HubSource, names: Collection[str]) -> Document:
    """Return what reads a small file of a repository that holds ``names``."""
    from huggingface_hub import hf_hub_download

    def read(name: str) -> bytes | None:
        if name not in names:
            return None
        return Path(hf_hub_download(wanted.repo, name, revision=wanted.revision)).read_bytes()

    return read


def _why_not(repo: str, revision: str | None, error: Exception, unusable: str | None) -> str:
    """Say why the hub gave nothing; ``unusable`` is what is wrong with what its cache holds."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repo} is gated: accept its licence at {constants.ENDPOINT}/{repo}, then run "
            "'hf auth login' or set HF_TOKEN"
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        here = f"only in part in the hub's cache ({unusable})" if unusable else "not in the hub's cache"
        return f"{repo} is {here}, and HF_HUB_OFFLINE is set; unset it, or fetch the model before"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision!r} on the hub"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub has no {repo}, or keeps it from you; check the name, or set HF_TOKEN"
    here = f"is only in part in the hub's cache ({unusable})" if unusable else "is not in the hub's cache"
    hub = "the hub" if constants.ENDPOINT == _HUB else f"the hub at {constants.ENDPOINT} (HF_ENDPOINT)"
    return f"{repo} is no directory here, {here}, and {hub} could not be asked for it: {reason(error)}"
