"""Tell which weights a model has now, and sum up all that a result depends on in one digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from superweight import __version__
from superweight.checkpoints.adapter_source import named_adapter
from superweight.checkpoints.cache import sha256
from superweight.checkpoints.gguf_parts import local_parts
from superweight.checkpoints.hub import cached_snapshot
from superweight.checkpoints.hub_source import HubSource
from superweight.checkpoints.registry import ModelEntry, resolve
from superweight.checkpoints.sources import local_path
from superweight.core.errors import BadInput
from superweight.fleet.job import Job

# What of a folder is not read to run the model.
_BESIDE = {".md", ".png", ".jpg", ".svg", ".html", ".lock", ".log"}
_HUB_TIMEOUT = 10.0


@dataclass(frozen=True)
class Pinned:
    """An entry whose source names one revision, and which weights that are; None where nobody can tell."""

    entry: ModelEntry
    weights: str | None


def pinned(entry: ModelEntry) -> Pinned:
    """Return which weights an entry stands for at this moment.

    A folder or a file here is read whole. Of a model on the hub one small request asks for the commit,
    and the entry is tied to it; where the hub does not answer, the commit in its cache counts.
    """
    if entry.source.startswith("wheel:"):
        return Pinned(entry, f"sha256:{entry.member_sha256}" if entry.member_sha256 else None)
    try:
        adapter = named_adapter(entry)
        if adapter is not None:
            return Pinned(entry, _of_adapter(*adapter))
        path = local_path(entry)
        if path.exists():
            return Pinned(entry, f"sha256:{_of_files(path)}")
    except (BadInput, OSError):
        return Pinned(entry, None)  # what is wrong with it is told when it is loaded
    wanted = HubSource.parse(entry.source)
    return Pinned(entry, None) if wanted is None else _on_hub(entry, wanted)


def _on_hub(entry: ModelEntry, wanted: HubSource) -> Pinned:
    from huggingface_hub import HfApi

    revision = wanted.revision or entry.revision
    commit: str | None
    try:
        commit = HfApi().model_info(wanted.repo, revision=revision, timeout=_HUB_TIMEOUT).sha
    # The client passes on whatever its HTTP library raises; why the hub says no is told by loading.
    except Exception:
        found = cached_snapshot(replace(wanted, revision=revision, file=None).address)
        commit = None if found is None else found.name
    if commit is None:
        return Pinned(entry, None)
    source = replace(wanted, revision=commit).address
    return Pinned(replace(entry, source=source, revision=None), f"commit:{commit}")


def _of_adapter(folder: Path, base: str | None) -> str | None:
    from superweight.checkpoints.adapters import open_adapter

    whole = pinned(resolve(base or open_adapter(folder).base)).weights
    return None if whole is None else f"sha256:{_of_files(folder)}+{whole}"


def _of_files(path: Path) -> str:
    """Return one digest over the names and contents of all files that make up a model."""
    if path.is_file():
        files = local_parts(path) if path.suffix == ".gguf" else [path]
    else:
        files = [file for file in path.iterdir() if file.is_file() and file.suffix not in _BESIDE]
    total = hashlib.sha256()
    for file in sorted(files):
        if not file.name.startswith("."):
            total.update(f"{file.name}\0{sha256(file)}\n".encode())
    return total.hexdigest()


def key_of(job: Job, model: Pinned, base: Pinned | None) -> str | None:
    """Return the digest of weights, options and version; None where it is not known which weights they are.

    What is published of a model and its baselines are options too: verdicts are held to them.
    """
    sides = [model, *([base] if base is not None else [])]
    if any(side.weights is None for side in sides):
        return None
    options = job.options | {"corpus": _content(job.corpus), "limits": _content(job.limits)}
    # What lies there counts, below, and not where.
    del options["baselines"]
    parts = {
        "version": __version__,
        "weights": [side.weights for side in sides],
        "options": options,
        "published": [repr(_without_place(side.entry)) for side in sides],
        "baselines": [_baselines(job, side.entry) for side in sides],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _without_place(entry: ModelEntry) -> ModelEntry:
    return replace(entry, root=Path(), source="", revision=None)


def _baselines(job: Job, entry: ModelEntry) -> str | None:
    from superweight.claims.baselines import baseline_path

    folder = baseline_path(Path(job.baselines), entry.name, "*", "*", "C1").parents[1]
    return _tree(folder) if folder.is_dir() else None


def _content(text: str | None) -> str | None:
    """Return what a path stands for: the digest of what lies there, or the text where nothing does."""
    path = Path(text or "")
    if text is None or not path.is_absolute() or not path.exists():
        return text
    return sha256(path) if path.is_file() else _tree(path)


def _tree(folder: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        total.update(f"{file.relative_to(folder)}\0{sha256(file)}\n".encode())
    return total.hexdigest()
