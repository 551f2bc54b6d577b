"""Choose the weight files of a directory that are judged, and hide the others."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from superweight.checkpoints.recognition import ADAPTER_CONFIG, SINGLE
from superweight.checkpoints.tensors.open import shards


def weight_files(directory: Path) -> list[Path]:
    """Return the files that transformers loads: the single file, else the index's, else the pickled ones."""
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    listed = [directory / shard for shard in shards(directory)]
    return listed or sorted(directory.glob("*.safetensors")) or sorted(directory.glob("*.bin"))


@contextmanager
def without_adapter(directory: Path) -> Iterator[Path]:
    """Give a directory to load the whole model from that lies in ``directory``, and no adapter.

    Where peft is installed, transformers applies an adapter that it finds beside a model; where it
    is not, the adapter is passed over. The same folder would be two models. Here the adapter
    is passed over always: the links in a temporary directory lead to all files but its config.
    """
    if not (directory / ADAPTER_CONFIG).is_file():
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="superweight-") as scratch:
        view = Path(scratch) / directory.name
        view.mkdir()
        for file in directory.iterdir():
            if file.name != ADAPTER_CONFIG:
                (view / file.name).symlink_to(file.resolve())
        yield view
