"""Check the files of a model on this machine: a directory, or a GGUF file."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from superweight.checkpoints.gguf_parts import local_parts
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
from superweight.checkpoints.tensors.open import indexed_shards, shards
from superweight.core.errors import BadInput

_log = logging.getLogger("superweight")


@dataclass(frozen=True)
class LocalModel:
    """The files of a model on this machine: a directory, or one GGUF file."""

    path: Path
    revision: str | None = None

    @property
    def is_gguf(self) -> bool:
        return self.path.suffix == ".gguf"


def checked_directory(path: Path, *, allow_pickle: bool, revision: str | None = None) -> LocalModel:
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


def checked_gguf(path: Path) -> LocalModel:
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
