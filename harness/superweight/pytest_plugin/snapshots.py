"""Keep baselines through syrupy: one JSON file a claim, model, device and dtype.

Three things differ from syrupy's own JSON extension: numbers match within their tolerance, an
update leaves those that do untouched, and no file is ever taken for unused, so that the baselines
of models that were not selected survive ``--snapshot-update``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from syrupy.data import SnapshotCollection, SnapshotCollections
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from syrupy.location import PyTestLocation

from superweight.claims.baselines import differences, dump, merged, parse
from superweight.core.atomic import write_whole


class BaselineExtension(SingleFileSnapshotExtension):
    """Stores a claim's record at the path that the plugin chose for it; see `bound_to`."""

    _write_mode = WriteMode.TEXT
    file_extension = "json"
    path: Path

    def serialize(self, data: Any, **_: Any) -> str:
        return dump(data)

    def matches(self, *, serialized_data: Any, snapshot_data: Any) -> bool:
        stored = parse(str(snapshot_data))
        return stored is not None and not differences(stored, parse(str(serialized_data)))

    @classmethod
    def get_location(cls, *, test_location: PyTestLocation, index: Any) -> str:
        return str(cls.path)

    @classmethod
    def dirname(cls, *, test_location: PyTestLocation) -> str:
        return str(cls.path.parent)

    @classmethod
    def matches_test_location(cls, *, test_location: PyTestLocation, snapshot_location: str) -> bool:
        return snapshot_location == str(cls.path)

    def discover_snapshots(self, **_: Any) -> SnapshotCollections:
        # What is discovered and not used is deleted on update. Only a person knows that a model
        # will never be run again.
        return SnapshotCollections()

    @classmethod
    def write_snapshot_collection(
        cls, *, snapshot_collection: SnapshotCollection, name_order: dict[str, int] | None = None
    ) -> None:
        path = Path(snapshot_collection.location)
        new = parse(str(next(iter(snapshot_collection)).data))
        stored = parse(path.read_text(encoding="utf-8")) if path.is_file() else None
        content = dump(merged(stored, new) if stored is not None else new or {})
        write_whole({path: content.encode()})


def bound_to(path: Path) -> type[BaselineExtension]:
    """Return the extension that keeps its one record at ``path``."""
    return type("BaselineExtension", (BaselineExtension,), {"path": path, "__module__": __name__})
