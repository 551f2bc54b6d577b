"""Tell whether the name of a model means an adapter, and bring its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from superweight.checkpoints.adapters import CONFIG, WEIGHTS, is_adapter
from superweight.checkpoints.cache import Progress, silent
from superweight.checkpoints.hub import cached_snapshot, listed_files
from superweight.checkpoints.hub_source import HubSource
from superweight.checkpoints.recognition import has_weights
from superweight.checkpoints.registry import ModelEntry, load_registry
from superweight.core.errors import Unavailable
from superweight.core.reason import reason


def named_adapter(entry: ModelEntry, progress: Progress = silent) -> tuple[Path, str | None] | None:
    """Return the folder of the adapter that an entry names, and the base that is named with it.

    It is a folder or a repository on the hub, by itself or as ADAPTER@BASE. What follows the @ of a
    repository is a base where it has a slash, is a registry name or lies here, and else a revision.
    The hub is asked where its cache does not say what a repository is. None where the entry names no
    adapter, or nobody can tell. Raises `Unavailable` where an adapter cannot be downloaded.
    """
    source = entry.source
    # The last @ first: what stands before another one may be a revision.
    places = [place for place, letter in enumerate(source) if letter == "@"]
    cuts = [(source, None), *((source[:place], source[place + 1 :]) for place in reversed(places))]
    for stem, base in cuts:
        if (folder := _here(entry.root / stem)) is not None:
            return folder, base or None
    for stem, base in (*cuts[1:], cuts[0]):
        wanted = _repository(stem, entry)
        if wanted is None or (base is not None and not _may_be_model(base, entry)):
            continue
        if base is None and wanted.revision is None:
            wanted = replace(wanted, revision=entry.revision)
        if (folder := _on_hub(wanted, progress)) is not None:
            return folder, base
    return None


def _here(folder: Path) -> Path | None:
    try:
        return folder if folder.is_dir() and is_adapter(folder) else None
    except OSError:
        return None  # a name that the file system cannot be asked about


def _repository(stem: str, entry: ModelEntry) -> HubSource | None:
    """Return the repository that words name; None where they name a file, or what lies here."""
    wanted = HubSource.parse(stem)
    if wanted is None or wanted.file is not None or stem.endswith(".gguf"):
        return None
    return None if (entry.root / stem).exists() else wanted


def _may_be_model(words: str, entry: ModelEntry) -> bool:
    """Tell whether what follows an @ is meant as a model, and not as a revision."""
    if words.startswith("refs/"):
        return False
    return "/" in words or "=" in words or words in load_registry() or (entry.root / words).exists()


def _on_hub(wanted: HubSource, progress: Progress) -> Path | None:
    if wanted.repo in load_registry():
        return None  # those are models: nobody need be asked
    cached = cached_snapshot(wanted.address)
    if cached is not None:
        if is_adapter(cached) and (cached / WEIGHTS).is_file():
            return cached
        if (cached / "config.json").is_file() and not (cached / CONFIG).is_file():
            return None
    names = listed_files(wanted.repo, wanted.revision)
    if isinstance(names, Exception) or CONFIG not in names or "config.json" in names or has_weights(names):
        return None
    from huggingface_hub import snapshot_download

    progress(f"downloading {wanted.repo}")
    try:
        return Path(
            snapshot_download(wanted.repo, revision=wanted.revision, allow_patterns=[CONFIG, WEIGHTS])
        )
    # The client passes on whatever its HTTP library raises, so no narrower class covers it.
    except Exception as error:
        raise Unavailable(f"the adapter {wanted.repo} cannot be downloaded: {reason(error)}") from error
