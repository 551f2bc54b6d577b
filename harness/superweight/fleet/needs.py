"""Tell what a model needs: cores, main memory and GPUs, from its size and dtype."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superweight.checkpoints.hub_source import HubSource
from superweight.checkpoints.registry import STORED, ModelEntry
from superweight.checkpoints.sources import local_path
from superweight.core.errors import BadInput
from superweight.fleet.job import REPORT, Job

# Beside the weights: what loading, eight windows of logits and a report take. Measured of tiny-planted:
# 0.9 GB, most of it torch and transformers.
WORKING = 15 * 10**8
# As `superweight.model.placement` reckons on a GPU: the allocator cannot use all that it holds.
SLACK = 1.1
# Of a model that is run block by block, two blocks and the embedding are in memory: this part at most of one
# that has sixteen blocks, and less of a larger one.
STREAMED_SHARE = 8
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
_HUB_TIMEOUT = 10.0


@dataclass(frozen=True)
class Size:
    """How many parameters a model has, and what they take as they are stored; None where unknown."""

    parameters: int | None = None
    stored: int | None = None


@dataclass(frozen=True)
class Needs:
    """What one task asks Ray for; memory in bytes, 0 where the model's size is not known."""

    cpus: float
    gpus: float = 0.0
    memory: int = 0

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPUs" if self.gpus else ""
        memory = f", {self.memory / 1e9:.3g} GB of memory" if self.memory else ""
        return f"{self.cpus:g} cores{gpus}{memory}"

    def fits(self, node: Mapping[str, Any]) -> bool:
        """Tell whether a node, by Ray's names of its resources, has as much when it does nothing else."""
        has = (node.get("CPU", 0.0), node.get("GPU", 0.0), node.get("memory", 0.0))
        return all(
            asked <= there for asked, there in zip((self.cpus, self.gpus, self.memory), has, strict=True)
        )


def size_of(entry: ModelEntry, *, ask_hub: bool = True) -> Size:
    """Return the size of a model: from the registry, its files here, or the hub's description of it."""
    if entry.parameters is not None:
        return Size(entry.parameters, entry.weight_bytes())
    try:
        path = local_path(entry)
    except BadInput:
        return Size()
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return Size(None, path.stat().st_size)
    wanted = HubSource.parse(entry.source)
    return _of_hub(wanted) if ask_hub and wanted is not None else Size()


def _of_folder(path: Path) -> Size:
    from superweight.checkpoints.dequantised import plain_tensors
    from superweight.checkpoints.tensors.open import open_checkpoint

    stored = sum(file.stat().st_size for file in path.iterdir() if file.suffix in _WEIGHTS)
    try:
        tensors = plain_tensors(open_checkpoint(path)).values()
        return Size(sum(math.prod(tensor.shape) for tensor in tensors), stored)
    except (BadInput, OSError):
        return Size(None, stored)


def _of_hub(wanted: HubSource) -> Size:
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(
            wanted.repo, revision=wanted.revision, timeout=_HUB_TIMEOUT, files_metadata=True
        )
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        if wanted.file is not None:
            return Size(None, sizes.get(wanted.choose(list(sizes))))
    except Exception:  # whatever the hub's client raises: the size is not known, and loading says why
        return Size()
    stored = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    return Size(info.safetensors.total if info.safetensors else None, stored or None)


def needs_of(job: Job, size: Size, gpu_memory: int, *, cluster_has_gpus: bool) -> Needs:
    """Return what a job asks for. What the job itself says comes first.

    On a CPU the weights are reckoned in float32, which is what they are computed in, unless a dtype is
    named. A model that is larger than one GPU of ``gpu_memory`` bytes asks for several. One that is scanned
    block by block asks for no GPU and for the memory of two blocks.
    """
    if job.mode == REPORT:
        return Needs(job.cpus, job.gpus or 0.0, job.memory or 0)
    if job.streamed:
        weights = _weights(job, size, on_gpu=False)
        held = weights // STREAMED_SHARE + WORKING if weights else 0
        return Needs(job.cpus, job.gpus or 0.0, held if job.memory is None else job.memory)
    on_gpu = job.device not in ("auto", "cpu") or (job.device == "auto" and cluster_has_gpus)
    weights = _weights(job, size, on_gpu=on_gpu)
    # A base lies in memory beside the model that is held to it.
    weights *= 1 if job.base is None else 2
    gpus = job.gpus
    if gpus is None:
        gpus = float(max(1, math.ceil((weights * SLACK + WORKING) / gpu_memory))) if on_gpu else 0.0
    memory = job.memory
    if memory is None:
        # Where it lies on GPUs, it passes through main memory shard by shard.
        main = 0.25 * weights if on_gpu else weights * SLACK
        memory = int(main + WORKING) if weights else 0
    return Needs(job.cpus, gpus, memory)


def _weights(job: Job, size: Size, *, on_gpu: bool) -> int:
    if size.parameters is None:
        # A GGUF of four bits is computed in float32 or 16 bits; the file alone does not say how many.
        return (size.stored or 0) * (1 if on_gpu else 2)
    if job.dtype in _BYTES:
        return size.parameters * _BYTES[job.dtype]
    return size.parameters * 4 if not on_gpu else size.stored or size.parameters * STORED["bfloat16"]
