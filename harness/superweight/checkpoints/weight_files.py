"""Choose the weight files of a directory that are judged, and lay it out as they are loaded from it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from superweight.checkpoints.recognition import ADAPTER_CONFIG, INDEX, SINGLE, names_in, unlisted_shards
from superweight.checkpoints.tensors.open import open_checkpoint, shards


def weight_files(directory: Path) -> list[Path]:
    """Return the files that transformers loads: the single file, else the index's, else the pickled ones."""
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    listed = [directory / shard for shard in shards(directory)]
    return listed or sorted(directory.glob("*.safetensors")) or sorted(directory.glob("*.bin"))


@contextmanager
def loadable(directory: Path) -> Iterator[Path]:
    """Give a directory from which transformers loads the whole model of ``directory``, and that alone.

    Where peft is installed, transformers applies an adapter that it finds beside a model; where it
    is not, the adapter is passed over. The same folder would be two models. Here the adapter
    is passed over always. Shards without an index, which transformers does not find, are given one.
    Where either is so, links in a temporary directory lead to the files.
    """
    adapter = (directory / ADAPTER_CONFIG).is_file()
    unlisted = unlisted_shards(names_in(directory))
    if not adapter and not unlisted:
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="superweight-") as scratch:
        view = Path(scratch) / directory.name
        view.mkdir()
        for file in directory.iterdir():
            if file.name != ADAPTER_CONFIG:
                (view / file.name).symlink_to(file.resolve())
        if unlisted:
            tensors = open_checkpoint(directory).tensors()
            placed = {name: info.file.name.rpartition("/")[2] for name, info in tensors.items()}
            index = {"metadata": {}, "weight_map": placed}
            (view / INDEX).write_text(json.dumps(index), encoding="utf-8")
        yield view
