"""Read the name of a model as a person typed it, and keep it with its registry entry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from superweight.checkpoints.registry import ModelEntry, load_registry, resolve


@dataclass(frozen=True)
class ModelRef:
    """One model: ``spec`` as it was typed, and the ``entry`` that it was read as.

    Every door reads the words once, with `parse_model`, and hands this on. ``named_by_user`` is
    False for a model that the harness chose itself, such as all models of the registry.
    """

    spec: str
    entry: ModelEntry
    named_by_user: bool = True

    def __str__(self) -> str:
        return self.spec

    @classmethod
    def of(cls, entry: ModelEntry, *, named_by_user: bool = False) -> ModelRef:
        """Return the reference to an entry that is at hand, with the words that lead to it."""
        registry = load_registry()
        if entry.name not in registry:
            spec = entry.source
        else:
            spec = entry.name if registry[entry.name] == entry else f"{entry.name}={entry.source}"
        return cls(spec, entry, named_by_user)


def parse_model(spec: str, folder: Path | None = None) -> ModelRef:
    """Read what a person typed for a model.

    A relative path leads on from ``folder`` where one is given, whatever the working directory is
    later. Raises `BadInput` for ``NAME=`` without a source.

    >>> parse_model("tiny-planted").entry.name
    'tiny-planted'
    """
    entry = resolve(spec)
    # ADAPTER@BASE begins with a path as well.
    begins = (entry.source, entry.source.partition("@")[0])
    here = folder is not None and any((folder / begin).exists() for begin in begins)
    if folder is not None and here and not entry.root.is_absolute():
        entry = replace(entry, root=folder)
    return ModelRef(spec, entry)
