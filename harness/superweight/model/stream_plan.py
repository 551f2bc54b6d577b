"""Tell what running a model block by block costs: before it, by the headers alone, and after it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.core.readable import titled
from superweight.model.block_stream import BlockStream

# What Python, torch and transformers take before there is a model.
_PROGRAM = 0.6e9


@dataclass(frozen=True)
class BlockCost:
    """What one block takes: ``stored`` bytes to bring and ``held`` in memory; routed experts apart.

    ``experts`` is how many of them there are, ``each`` what one takes to bring, ``each_held`` in memory.
    """

    stored: int
    held: int
    experts: int = 0
    each: int = 0
    each_held: int = 0

    def brought(self, chosen: int) -> int:
        """Return the bytes to bring where at most so many experts are chosen."""
        return self.stored + min(chosen, self.experts) * self.each

    def in_memory(self, chosen: int) -> int:
        return self.held + min(chosen, self.experts) * self.each_held


@dataclass(frozen=True)
class Plan:
    """What a scan costs at most: ``blocks``, of ``total`` bytes, and rows of embeddings beside them.

    ``chosen`` is how many routed experts of a block the prompt's tokens can choose at most.
    """

    total: int
    blocks: tuple[BlockCost, ...]
    chosen: int
    carries: int

    def upto(self, count: int) -> int:
        """Return the bytes of the first ``count`` blocks."""
        return sum(block.brought(self.chosen) for block in self.blocks[:count])

    @property
    def peak(self) -> float:
        """Bytes of memory: two blocks, and the program itself."""
        held = [block.in_memory(self.chosen) for block in self.blocks]
        pairs = [first + second for first, second in zip(held, [*held[1:], 0], strict=True)]
        return max(pairs) + _PROGRAM

    def lines(self, name: str, blocks: int | None, *, full: bool) -> Iterator[str]:
        """Yield what a person reads."""
        count = len(self.blocks)
        yield f"{titled(name)}: {gigabytes(self.total)} in {count} blocks and what lies beside them"
        start = 0
        for at in range(1, count + 1):
            if at == count or self.blocks[at] != self.blocks[start]:
                yield f"block{_span(start, at - 1)}: {self._block(self.blocks[start], at - start)}"
                start = at
        least = min(count, self.carries + 1)
        if not full and blocks is None:
            share = self.upto(least) / self.total
            yield f"settled at the earliest after {least} blocks: {gigabytes(self.upto(least))} ({share:.1%})"
        last = min(count, blocks or count)
        share = self.upto(last) / self.total
        yield f"at most, {last} blocks: {gigabytes(self.upto(last))} ({share:.1%})"
        yield f"memory: about {gigabytes(self.peak)}, for two blocks"

    def _block(self, block: BlockCost, count: int) -> str:
        each = " each" if count > 1 else ""
        if not block.experts:
            return f"{gigabytes(block.stored)}{each}"
        chosen = min(self.chosen, block.experts)
        return (
            f"{gigabytes(block.stored)}{each}, and up to {chosen} of {block.experts} experts of "
            f"{gigabytes(block.each)}"
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "bytes": self.total,
            "blocks": [
                {"bytes": block.stored, "experts": block.experts, "bytes_each": block.each}
                for block in self.blocks
            ],
            "experts_chosen": self.chosen,
            "settled_after": min(len(self.blocks), self.carries + 1),
            "bytes_settled": self.upto(self.carries + 1),
            "bytes_at_most": self.upto(len(self.blocks)),
            "memory": int(self.peak),
        }


def plan(stream: BlockStream, checkpoint: Checkpoint, tokens: int, carries: int) -> Plan:
    """Return what a scan of a prompt of so many tokens costs; nothing but headers is read for it."""
    sizes = {name: info.end - info.start for name, info in checkpoint.tensors().items()}
    packs: dict[str, int] = {}
    for name, size in sizes.items():
        module = name.rpartition(".")[0]
        packs[module] = packs.get(module, 0) + size
    config = stream.model.config.get_text_config()
    top = next(
        (
            found
            for key in ("num_experts_per_tok", "moe_topk", "top_k")
            if (found := getattr(config, key, None))
        ),
        1,
    )

    def stored(names: Sequence[str]) -> int:
        keys = {pair for name in names for pair in stream.sources(name)}
        modules = {key.rpartition(".")[0] for key, packed in keys if packed}
        return sum(packs[module] for module in modules) + sum(
            sizes[key] for key, packed in keys if not packed
        )

    blocks = []
    for unit in stream.blocks:
        count = unit.experts or 1
        each, each_held = stored(unit.routed) // count, stream.held(unit.routed) // count
        dense = sorted(set(unit.names) - set(unit.routed))
        blocks.append(BlockCost(stored(dense), stream.held(dense), unit.experts, each, each_held))
    chosen = tokens * int(top) if isinstance(top, int) else tokens
    return Plan(sum(sizes.values()), tuple(blocks), chosen, carries)


@dataclass
class Cost:
    """What a scan has cost: ``brought`` bytes of ``total``, and what a process takes at its largest.

    ``passed`` counts how often a block was entered; a second pass enters its blocks again.
    """

    total: int
    brought: int = 0
    seconds: float = 0.0
    peak: int = 0
    passed: list[int] = field(default_factory=list)

    @property
    def line(self) -> str:
        share = self.brought / self.total if self.total else 0.0
        return (
            f"read {gigabytes(self.brought)} of {gigabytes(self.total)} ({share:.2%}), in "
            f"{self.seconds:.3g} s, with {gigabytes(self.peak)} of memory"
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "bytes": self.brought,
            "bytes_total": self.total,
            "blocks_entered": len(self.passed),
            "seconds": round(self.seconds, 3),
            "peak_memory": self.peak,
        }


@contextmanager
def costing(stream: BlockStream, checkpoint: Checkpoint) -> Iterator[Cost]:
    """Count what is read for a ``with`` block; the headers that are read already count as well."""
    cost = Cost(sum(info.end - info.start for info in checkpoint.tensors().values()))
    begun = time.monotonic()
    try:
        yield cost
    finally:
        cost.brought = checkpoint.folder.brought
        cost.seconds = time.monotonic() - begun
        cost.peak = peak_memory()
        cost.passed = list(stream.entered)


def peak_memory() -> int:
    """Return the most memory that this process has had in use, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def gigabytes(size: float) -> str:
    """Return a number of bytes in words.

    >>> gigabytes(1.5e9), gigabytes(2.5e6)
    ('1.5 GB', '2.5 MB')
    """
    return f"{size / 1e9:.3g} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"


def _span(first: int, last: int) -> str:
    return f" {first}" if first == last else f"s {first} to {last}"
