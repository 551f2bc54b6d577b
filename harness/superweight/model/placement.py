"""Place a model's weights: on one GPU, on several, or partly beside them where that is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from superweight.checkpoints.tensors.open import shards
from superweight.core.errors import TooLarge
from superweight.model.devices import gib

# Beside the weights: logits and log-probabilities of eight windows over the widest vocabulary of
# the registry take 1.4 GiB, copies of a matrix that is ranked the rest ...
WORKING = 2 * 2**30
# ... and what the allocator cannot use again grows with what is allocated.
SLACK = 1.1


@dataclass(frozen=True)
class Placement:
    """How a model is laid out; sizes in bytes.

    ``max_memory`` is what accelerate may put on each device, or None for everything on the first.
    """

    need: int
    max_memory: Mapping[int | str, int] | None = None


def need(weights: int) -> int:
    """Return what one device must have free to measure a model whose weights take so many bytes."""
    return int(weights * SLACK) + WORKING


def place_model(weights: int, free: Sequence[int], *, beside: int = 0) -> Placement:
    """Lay ``weights`` bytes out over devices with so much ``free``.

    ``beside`` is the main memory that may take what the devices do not. Raises `TooLarge`, with
    the numbers, when all of it together does not hold the model.
    """
    needed = need(weights)
    if free and needed <= free[0]:
        return Placement(needed)
    room = [max(0, int((each - WORKING) / SLACK)) for each in free]
    total = sum(room) + beside
    if total < weights:
        has = ", ".join(map(gib, free)) or "no device"
        extra = f" and {gib(beside)} of main memory" if beside else ""
        raise TooLarge(
            f"its weights take {gib(weights)}, so {gib(needed)} are needed to measure it, and free are "
            f"{has}{extra}"
        )
    memory: dict[int | str, int] = dict(enumerate(room))
    if beside:
        memory["cpu"] = beside
    return Placement(needed, memory)


def stored_bytes(directory: Path) -> int:
    """Return what the weights of a checkpoint take as they are stored."""
    if named := shards(directory):
        return sum((directory / name).stat().st_size for name in named)
    single = directory / "model.safetensors"
    paths = [single] if single.is_file() else list(directory.glob("*.bin"))
    return sum(path.stat().st_size for path in paths)
