"""Write a copy of a release with some scalars put back, and prove that nothing else changed."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from superweight.checkpoints.recognition import INDEX
from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.decoding import EPSILON, Floats
from superweight.checkpoints.tensors.open import gguf_parts, open_checkpoint
from superweight.checkpoints.tensors.safetensors_copy import copy_file
from superweight.checkpoints.tensors.tensor_info import TensorInfo
from superweight.core.errors import HarnessError
from superweight.remedy.copy_plan import Plan, bytes_of
from superweight.remedy.gguf_copy import copy_gguf
from superweight.remedy.ignore_lists import BESIDE, beside_unquantised, with_unquantised
from superweight.remedy.restoration import Restoration
from superweight.remedy.whole_folder import require_room, whole_folder

_CHUNK = 2**24


def write_copy(release: Checkpoint, path: Path, target: Path, plan: Plan) -> Path:
    """Write the copy whole or not at all, and return the path that names the model in it.

    ``path`` is the release's folder, or its GGUF file. Raises `BadInput` where there is no room, or the
    folder cannot be written, and `HarnessError` where the copy is not what it should be.
    """
    require_room(target, _size(path) + _grown(release, plan))
    with whole_folder(target) as scratch:
        if path.is_file():
            _write_gguf(release, path, scratch, plan)
        else:
            _write_folder(release, path, scratch, plan)
        _prove(release, open_checkpoint(scratch if path.is_dir() else scratch / path.name), plan)
    return target if path.is_dir() else target / path.name


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path.with_name(name) for name in gguf_parts(path.name)]
    return sum(file.stat().st_size for file in files if file.is_file())


def _grown(release: Checkpoint, plan: Plan) -> int:
    """Return by how many bytes the copy is larger at most."""
    return sum(numbers.nbytes for _, numbers in plan.retyped.values()) + sum(
        4 * module.numbers.size for module in plan.unquantised
    )


def _write_gguf(release: Checkpoint, path: Path, scratch: Path, plan: Plan) -> None:
    for name in gguf_parts(path.name):
        held = {tensor for tensor, file in release.files.items() if file == name}
        changed = {tensor: plan.retyped[tensor] for tensor in plan.retyped if tensor in held}
        if changed:
            copy_gguf(path.with_name(name), scratch / name, changed)
        else:
            shutil.copyfile(path.with_name(name), scratch / name)
    copy = open_checkpoint(scratch / path.name)
    _patch(copy, plan.patched)


def _write_folder(release: Checkpoint, path: Path, scratch: Path, plan: Plan) -> None:
    gone = {name for module in plan.unquantised for name in module.packed}
    rewritten = {release.files[name] for name in gone}
    shutil.copytree(
        path,
        scratch,
        dirs_exist_ok=True,
        ignore=lambda where, names: rewritten if Path(where) == path else set(),
    )
    # Files of a hub's cache are links to files that may not be written to.
    for there in scratch.rglob("*"):
        there.chmod(there.stat().st_mode | 0o200)
    for file in sorted(rewritten):
        drop = {name for name in gone if release.files[name] == file}
        add = {
            module.weight: (module.dtype, module.numbers)
            for module in plan.unquantised
            if release.files[module.packed[0]] == file
        }
        copy_file(path / file, scratch / file, drop, add)
    if plan.unquantised:
        _write_index(release, scratch, plan)
        _write_config(release, scratch, plan)
    _patch(open_checkpoint(scratch), plan.patched)


def _write_index(release: Checkpoint, scratch: Path, plan: Plan) -> None:
    index = scratch / INDEX
    if not index.is_file():
        return
    document = json.loads(index.read_bytes())
    weight_map: dict[str, str] = document["weight_map"]
    for module in plan.unquantised:
        for name in module.packed:
            weight_map.pop(name, None)
        weight_map[module.weight] = release.files[module.packed[0]]
    index.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if "total_size" in (document.get("metadata") or {}):
        tensors = open_checkpoint(scratch).tensors().values()
        document["metadata"]["total_size"] = sum(info.end - info.start for info in tensors)
        index.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _write_config(release: Checkpoint, scratch: Path, plan: Plan) -> None:
    config: dict[str, Any] = dict(release.config)
    for module in plan.unquantised:
        config = with_unquantised(config, module.module)
    (scratch / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in BESIDE:
        file = scratch / name
        if file.is_file():
            document = beside_unquantised(
                json.loads(file.read_bytes()), config, [module.module for module in plan.unquantised]
            )
            file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _patch(copy: Checkpoint, patched: Sequence[Restoration]) -> None:
    for item in patched:
        info = copy.info(item.tensor)
        flat = int(np.ravel_multi_index(item.index, info.shape))
        with Path(info.file.name).open("r+b") as file:
            file.seek(info.start + flat * info.block_bytes)
            file.write(bytes_of(info, item.becomes))


def _prove(release: Checkpoint, copy: Checkpoint, plan: Plan) -> None:
    """Raise `HarnessError` unless all that was not to change has the same hash, and the rest is right."""
    before, after = release.tensors(), copy.tensors()
    for name in before.keys() | after.keys():
        if name in plan.touched:
            continue
        if name not in before or name not in after or digest(before[name]) != digest(after[name]):
            raise HarnessError(f"the copy changed {name}, which was to stay; nothing was written")
    for tensor in {item.tensor for item in plan.patched}:
        if _apart(before[tensor], after[tensor]) > sum(item.tensor == tensor for item in plan.patched):
            raise HarnessError(f"the copy changed more of {tensor} than it should; nothing was written")
    for item in plan.patched:
        stored = copy.scalar(item.tensor, *item.index).value
        if not math.isclose(stored, item.becomes, rel_tol=EPSILON[after[item.tensor].dtype]):
            raise HarnessError(
                f"the copy holds {stored} at {item.place}, not {item.becomes}; nothing was written"
            )
    for name, (_, numbers) in plan.retyped.items():
        _require_numbers(copy, name, numbers)
    for module in plan.unquantised:
        _require_numbers(copy, module.weight, module.numbers)


def _require_numbers(copy: Checkpoint, name: str, numbers: Floats) -> None:
    """Raise `HarnessError` unless a tensor holds the numbers, to what its type resolves."""
    stored, dtype = copy.read(name), copy.info(name).dtype
    if stored.shape != numbers.shape:
        raise HarnessError(f"the copy holds {name} in shape {stored.shape}; nothing was written")
    # In Q8_0 a block of 32 shares one step; below the smallest normal number F16 has steps of its own.
    near = EPSILON.get(dtype)
    error = np.abs(stored - numbers)
    allowed = (
        np.abs(numbers) * near + 2.0**-24
        if near is not None
        else np.repeat(np.abs(numbers).reshape(-1, 32).max(1) / 127, 32).reshape(numbers.shape)
    )
    if not (error <= allowed)[np.isfinite(numbers)].all():
        raise HarnessError(f"the copy holds other numbers in {name} than it should; nothing was written")


def digest(info: TensorInfo) -> str:
    """Return the SHA-256 of what a tensor is: its type, its shape and its bytes."""
    made = hashlib.sha256(f"{info.dtype} {info.shape}".encode())
    for start in range(info.start, info.end, _CHUNK):
        made.update(info.file.read(start, min(info.end, start + _CHUNK)))
    return made.hexdigest()


def _apart(one: TensorInfo, other: TensorInfo) -> int:
    """Return how many numbers of two tensors of one type differ by their bytes."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return one.elements
    count = 0
    size = _CHUNK // one.block_bytes * one.block_bytes
    for start in range(0, one.end - one.start, size):
        length = min(size, one.end - one.start - start)
        pair = [
            np.frombuffer(info.file.read(info.start + start, info.start + start + length), np.uint8)
            for info in (one, other)
        ]
        differ = (pair[0] != pair[1]).reshape(-1, one.block_bytes).any(axis=1)
        count += int(np.count_nonzero(differ))
    return count
