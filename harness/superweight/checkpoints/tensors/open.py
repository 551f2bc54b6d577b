"""Opening a checkpoint: a directory, a file, an address, or a repository on the hub."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from superweight.checkpoints.recognition import INDEX, SINGLE, names_in, pickled, unlisted_shards, what_it_is
from superweight.checkpoints.tensors import gguf, safetensors
from superweight.checkpoints.tensors.checkpoint import Checkpoint, json_object
from superweight.checkpoints.tensors.files import File, Folder, LocalFolder
from superweight.checkpoints.tensors.tensor_info import Header
from superweight.core.errors import BadInput, BrokenModel

_HUB = re.compile(
    # A branch named refs/pr/1 is the one kind of revision that holds slashes; others write %2F.
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>refs/\w+/[\w.-]+|[\w.%-]+))?(/(?P<file>[^@?]+))?/?"
)
_ADDRESS = re.compile(r"(?P<path>https?://[^?#]+)(?P<query>\?[^#]*)?")
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_WEIGHTS = (".safetensors", ".gguf")
# Mistral's own layout.
_MISTRAL, _MISTRAL_PARAMS = "consolidated.safetensors", "params.json"


def is_remote(where: str) -> bool:
    """Tell whether ``where`` is an address rather than a path."""
    return where.startswith(("hf://", "http://", "https://"))


def hub_repository(where: str) -> str | None:
    """Return the org/name that an hf:// address names, if it is one."""
    match = _HUB.fullmatch(where)
    return None if match is None else match["repo"]


def open_checkpoint(where: str | Path) -> Checkpoint:
    """Open a checkpoint; of a remote one nothing is brought but what is asked for.

    ``where`` is a directory of safetensors, a .safetensors or .gguf file, an https address of
    either, or of a folder of safetensors, or ``hf://org/name[@revision][/file]``. Raises `BadInput`
    in one line when it is none of these, cannot be reached, or lacks a file that its index names.
    """
    text = str(where)
    if text.startswith("hf://"):
        return _open_hub(text)
    if is_remote(text):
        return _open_address(text)
    path = Path(where)
    if path.is_dir():
        return _open_folder(text, LocalFolder(path))
    if not path.is_file():
        raise BadInput(f"cannot read {path}: there is no such file or directory")
    if path.suffix not in _WEIGHTS:
        raise BadInput(f"{path} is neither a .safetensors nor a .gguf file")
    return _open_file(text, LocalFolder(path.parent), path.name)


def _open_hub(where: str) -> Checkpoint:
    from urllib.parse import unquote

    from superweight.checkpoints.tensors.remote import hub_folder

    match = _HUB.fullmatch(where)
    if match is None:
        raise BadInput(f"{where!r} is not of the form hf://org/name[@revision][/file]")
    revision = match["revision"]
    folder = hub_folder(match["repo"], None if revision is None else unquote(revision))
    name, file = where.rstrip("/"), match["file"]
    if file is None:
        return _open_folder(name, folder)
    if not file.endswith(_WEIGHTS):
        raise BadInput(f"{where!r} is neither a .safetensors nor a .gguf file")
    return _open_file(name, folder, file)


def _open_address(where: str) -> Checkpoint:
    from superweight.checkpoints.tensors.remote import RemoteFolder

    match = _ADDRESS.fullmatch(where)
    if match is None:
        raise BadInput(f"{where!r} is no address of a safetensors file or of a folder of them")
    path, query = match["path"], match["query"] or ""
    if path.endswith(_WEIGHTS):
        parent, _, file = path.rpartition("/")
        return _open_file(path, RemoteFolder(parent, query=query), file)
    return _open_folder(path, RemoteFolder(path, query=query))


def _open_folder(name: str, folder: Folder) -> Checkpoint:
    # The order in which transformers looks.
    if folder.find(SINGLE) is not None:
        return _open_file(name, folder, SINGLE)
    index = folder.document(INDEX)
    if index is not None:
        return _open_index(name, folder, index)
    if folder.document(_MISTRAL_PARAMS) is not None and folder.find(_MISTRAL) is not None:
        return _open_file(name, folder, _MISTRAL)
    if unlisted := unlisted_shards(folder.names()):
        return _open_unlisted(name, folder, unlisted)
    raise BadInput(_what_else(name, folder))


def _open_unlisted(name: str, folder: Folder, names: list[str]) -> Checkpoint:
    """Open shards without an index: each says itself what it holds."""
    headers = {file: safetensors.read_header(_found(folder, file)) for file in names}
    files: dict[str, str] = {}
    for file, header in headers.items():
        if repeated := sorted(header.keys() & files.keys()):
            raise BrokenModel(f"{name}: {repeated[0]!r} is in {files[repeated[0]]} and in {file}")
        files |= dict.fromkeys(header, file)
    return Checkpoint(name, folder, files, headers.__getitem__)


def is_mistral(path: Path) -> bool:
    """Tell whether a folder is in Mistral's own layout alone, whose files are read and not loaded."""
    others = any((path / name).is_file() for name in (SINGLE, INDEX))
    return not others and all((path / name).is_file() for name in (_MISTRAL, _MISTRAL_PARAMS))


def _what_else(name: str, folder: Folder) -> str:
    """Say what a folder without safetensors is, and what to give instead."""
    neither = f"{name} holds neither {SINGLE} nor {INDEX}"
    if isinstance(folder, LocalFolder):
        names = names_in(folder.path)
        if unsafe := pickled(names):
            return (
                f"{name} holds only pickled weights ({unsafe[0]}), which are not read without unpickling "
                "them, and that runs code; convert it to safetensors"
            )
        known = what_it_is(str(folder.path), names, folder.document)
        if known is not None:
            return known
        if others := sorted(file for file in names if file.endswith(_WEIGHTS)):
            return f"{neither}; name the file that is meant, such as {folder.path / others[0]}"
    return f"{neither}; give the address or path of a .safetensors or .gguf file"


def _open_file(name: str, folder: Folder, file: str) -> Checkpoint:
    if folder.find(file) is None:
        raise BadInput(f"{folder.name} holds no {file}; check the address")
    if not file.endswith(".gguf"):
        header = safetensors.read_header(_found(folder, file))
        return Checkpoint(name, folder, dict.fromkeys(header, file), {file: header}.__getitem__)
    headers: dict[str, Header] = {}
    files: dict[str, str] = {}
    parts = gguf_parts(file)
    for part in parts:
        _found(folder, part)  # a part that nobody has is named before any other is read
    for place, part in enumerate(parts):
        headers[part], metadata = gguf.read_header(_found(folder, part))
        _refuse_misplaced_part(f"{folder.name}/{part}", metadata, place, len(parts))
        if repeated := sorted(headers[part].keys() & files.keys()):
            raise BrokenModel(f"{name}: {repeated[0]!r} is in {files[repeated[0]]} and in {part}")
        files |= dict.fromkeys(headers[part], part)
        counted = metadata.get("split.tensors.count") if place + 1 == len(parts) > 1 else None
        if counted not in (None, len(files)):
            raise BadInput(
                f"{name}: the parts hold {len(files)} tensors, and the last counts {counted}; "
                "one of them belongs to another model, so fetch them again"
            )
    return Checkpoint(name, folder, files, headers.__getitem__, is_gguf=True)


def gguf_parts(file: str) -> list[str]:
    """Return the names of all parts of the GGUF file of which ``file`` names one, else its own."""
    match = _PART.fullmatch(file)
    if match is None:
        return [file]
    return [
        f"{match['stem']}-{number:05}-of-{match['count']}.gguf"
        for number in range(1, int(match["count"]) + 1)
    ]


def _refuse_misplaced_part(name: str, metadata: gguf.Metadata, place: int, count: int) -> None:
    """Raise `BadInput` when a GGUF file says of itself that it is another part than its name says."""
    # A file whose parts were merged says 0 of itself; old tools say nothing.
    own_count, own_place = metadata.get("split.count", count) or 1, metadata.get("split.no", place)
    if own_count != count:
        raise BadInput(
            f"{name} is one of {own_count} parts by its header, and one of {count} by its name; give all "
            "parts the names they were published under, such as model-00001-of-00002.gguf"
        )
    if own_place != place and own_count != 1:
        raise BadInput(
            f"{name} is part {own_place + 1 if isinstance(own_place, int) else own_place} by its header, and "
            f"part {place + 1} by its name; fetch the parts again"
        )


def shards(directory: Path) -> list[str]:
    """Return the files of a directory's weights that its index names, or that belong together without one.

    Beside a single file of weights no index counts: transformers loads the single file. Raises
    `BadInput` for an index that is none, or that leads out of the directory.
    """
    if (directory / SINGLE).is_file():
        return []
    return indexed_shards(directory) or unlisted_shards(names_in(directory))


def indexed_shards(directory: Path) -> list[str]:
    """Return the files that a directory's index names, whatever lies beside it; raises as `shards` does."""
    index = directory / INDEX
    if not index.is_file():
        return []
    return sorted(set(_weight_map(index.read_bytes(), str(index)).values()))


def second_set(checkpoint: Checkpoint) -> Checkpoint | None:
    """Return the shards that an index lists beside a checkpoint's single file, None without a whole set."""
    folder = checkpoint.folder
    if not isinstance(folder, LocalFolder) or checkpoint.is_gguf or folder.find(SINGLE) is None:
        return None
    text = folder.document(INDEX)
    try:
        second = None if text is None else _open_index(checkpoint.name, folder, text)
        if second is not None:
            second.tensors()
    except BadInput:
        return None  # stale, which is told where the folder is fetched
    return second


def _weight_map(text: bytes, place: str) -> dict[str, str]:
    """Return an index's tensors and the files that hold them."""
    files = json_object(text, place).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise BrokenModel(f"{place} has no weight_map, so which file holds what is unknown")
    for tensor, file in files.items():
        # A file's name that leads elsewhere would be read from there.
        if not isinstance(file, str) or PurePosixPath(file).name != file or not file.endswith(".safetensors"):
            raise BrokenModel(f"{place} maps {tensor!r} to {file!r}, which is no safetensors file beside it")
    return files


def _open_index(name: str, folder: Folder, text: bytes) -> Checkpoint:
    files = _weight_map(text, f"{folder.name}/{INDEX}")
    if isinstance(folder, LocalFolder):
        for file in sorted(set(files.values())):
            _found(folder, file)
    return Checkpoint(name, folder, files, lambda file: safetensors.read_header(_found(folder, file)))


def _found(folder: Folder, file: str) -> File:
    found = folder.find(file)
    if found is None:
        raise BrokenModel(f"{folder.name} lacks {file}, which belongs to the checkpoint; fetch it again")
    return found
