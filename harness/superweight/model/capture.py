"""Record one forward pass: the stream after every block, and what every projection read and wrote."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from superweight.core.errors import NotFinite, UnknownArchitecture
from superweight.model.architecture import Architecture
from superweight.model.arrived_writes import BlockRecord
from superweight.model.batch_rows import entering
from superweight.model.block_watch import BlockWatch
from superweight.model.block_writers import Block
from superweight.model.experts import Experts, ExpertsCall
from superweight.model.followed_writes import FollowedWrites, times
from superweight.model.gains import gains_of, is_gain
from superweight.model.half_blocks import HalfBlock
from superweight.model.lanes import in_lane, lanes_of, leading_lane
from superweight.model.projections import LinearProjection
from superweight.model.residual_stream import stream

# How far the sum of the parts may lie from the whole, in steps of the dtype at the whole's largest
# value: each of a few dozen terms is rounded once, in an order of its own.
_ROUNDINGS = 64.0


@dataclass(frozen=True)
class Part:
    """What one projection read and wrote, for n tokens of the batch; ``places`` count row by row.

    ``inputs``: (n, intermediate), ``outputs``: (n, hidden), ``places``: (n,), ``factors``: (n,), or
    (n, hidden) where a norm, or a lane of the stream, gives every channel its own.
    """

    expert: int | None
    places: torch.Tensor
    inputs: torch.Tensor
    outputs: torch.Tensor
    factors: torch.Tensor

    def within(self, start: int, stop: int) -> torch.Tensor:
        """Return which of the n tokens lie in [start, stop): indices."""
        return ((self.places >= start) & (self.places < stop)).nonzero()[:, 0]


@dataclass(frozen=True)
class DenseWrite:
    """What one block's dense projection just wrote, where the residual stream gets it as it is.

    ``inputs``: (sequences, tokens, intermediate); ``outputs``, times ``scale``, and ``after``, the
    stream after the block: (sequences, tokens, hidden).
    """

    layer: int
    projection: LinearProjection
    scale: float
    inputs: torch.Tensor
    outputs: torch.Tensor
    after: torch.Tensor


Meanwhile = Callable[[DenseWrite], None]


@dataclass
class Record:
    """One batch; lists hold an entry for each block, ``residual`` one more for what is before the first.

    ``arrived`` and ``residual`` entries: (sequences, tokens, hidden); of a stream in several lanes each
    entry in its leading lane, which ``lanes`` holds (None where there is one). ``carry`` is by what each
    block multiplies the stream that it is given: 1 but for the families that scale it as a whole. ``norms``
    are those that stand between a block's MLP and the stream: their names, and their gains, (hidden,).
    """

    residual: list[torch.Tensor] = field(default_factory=list)
    parts: list[list[Part]] = field(default_factory=list)
    arrived: list[torch.Tensor] = field(default_factory=list)
    carry: list[float] = field(default_factory=list)
    lanes: list[torch.Tensor | None] = field(default_factory=list)
    norms: list[tuple[str, torch.Tensor] | None] = field(default_factory=list)


class PassEnded(Exception):  # no error: whoever records a pass has seen enough of it
    """Raised by ``ended`` of `recorded` to leave the rest of the pass out."""


@contextmanager
def recorded(
    architecture: Architecture,
    start: int = 0,
    meanwhile: Meanwhile | None = None,
    held: Collection[int] = (),
    tokens: tuple[int, int] = (0, 0),
    ended: Callable[[Record], None] | None = None,
) -> Iterator[Record]:
    """Record the forward pass that is run inside, from block ``start`` on.

    ``meanwhile`` is told of each block as it ends, where nothing but a factor stands between a
    dense projection and the residual stream. ``held`` are the blocks whose stream an edit sets to a
    value, which no part of them wrote. ``tokens``, (sequences, tokens), tells a stream's lanes apart.
    ``ended`` is shown the record after each block, whose weights are still at hand then; it may raise
    `PassEnded`, which ends the pass, and the record with that block.

    The record is complete after the ``with`` block. Raises `NotFinite` where the residual stream
    overflowed, and `UnknownArchitecture` where what the projections wrote does not add up to what the
    block's MLP wrote.
    """
    writer = _Recorder(architecture, start)
    with ExitStack() as hooks:
        first = architecture.blocks[start]
        before = first.register_forward_pre_hook(_before_blocks(writer.entered), with_kwargs=True)
        hooks.callback(before.remove)
        for layer, (block, seen) in enumerate(zip(writer.layout, writer.caught, strict=True), start):
            watch = BlockWatch(block, layer, seen, architecture.hidden, tokens, patched=layer in held)
            watch.place(hooks)
            if meanwhile is not None:
                hooks.callback(_tell(block, layer, seen, meanwhile).remove)
            closing = block.module.register_forward_hook(_closer(writer, layer - start, tokens, ended))
            hooks.callback(closing.remove)
        try:
            yield writer.record
        except PassEnded:
            return
    writer.close(len(writer.layout) - 1, tokens)


class _Recorder:
    """Writes the entries of a record, block by block."""

    def __init__(self, architecture: Architecture, start: int) -> None:
        self.architecture = architecture
        self.start = start
        self.layout = architecture.layout[start:]
        self.caught = [BlockRecord(FollowedWrites(len(block.sources))) for block in self.layout]
        self.entered: list[torch.Tensor] = []
        self.record = Record()

    def close(self, last: int, tokens: tuple[int, int]) -> None:
        """Write the entries up to a block that has ended; those before it that did not run are empty."""
        record = self.record
        if not record.residual:
            _keep_stream(record, lanes_of(self.entered[0], self.architecture.hidden, tokens))
        for index in range(len(record.parts), last + 1):
            block, seen, layer = self.layout[index], self.caught[index], self.start + index
            if seen.after is None:  # skipped, as cross-attention without an encoder is
                record.parts.append([])
                record.norms.append(None)
                record.carry.append(1.0)
                record.arrived.append(torch.zeros_like(record.residual[-1]))
                record.residual.append(record.residual[-1])
                record.lanes.append(record.lanes[-1])
                continue
            if not bool(seen.after.isfinite().all()):
                raise NotFinite(layer, str(seen.after.dtype).removeprefix("torch."))
            _keep_stream(record, seen.after)
            record.carry.append(seen.carry)
            record.norms.append(_gains(self.architecture, layer, seen.norm))
            record.arrived.append(_arrived(seen, record.lanes[-1]))
            record.parts.append(list(_parts(block, layer, seen, record.lanes[-1])))


def _closer(
    writer: _Recorder, index: int, tokens: tuple[int, int], ended: Callable[[Record], None] | None
) -> Callable[[nn.Module, Any, Any], None]:
    def close(_: nn.Module, arguments: Any, output: Any) -> None:
        writer.close(index, tokens)
        if ended is not None:
            ended(writer.record)

    return close


def _gains(architecture: Architecture, layer: int, norm: nn.Module | None) -> tuple[str, torch.Tensor] | None:
    """Return the gains of the norm behind a block's MLP; None where there is none that is a gain alone."""
    for name, part in architecture.blocks[layer].named_children():
        if part is norm and is_gain(part, architecture.hidden):
            return name, gains_of(architecture, layer, name).values()
    return None


def _keep_stream(record: Record, lanes: torch.Tensor) -> None:
    lane = leading_lane(lanes)
    record.residual.append(in_lane(lanes, lane))
    record.lanes.append(lane)


def _before_blocks(entered: list[torch.Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def before(_: nn.Module, arguments: Any, keywords: Any) -> None:
        entered.append(entering(arguments, keywords).detach().clone())

    return before


def _tell(block: Block, layer: int, seen: BlockRecord, meanwhile: Meanwhile) -> RemovableHandle:
    def tell(_: nn.Module, arguments: Any, output: Any) -> None:
        dense, scale = seen.dense, seen.scale
        if block.dense is None or dense is None or scale is None or isinstance(block.module, HalfBlock):
            return
        after = stream(output).detach()
        inputs, outputs = (tensor.reshape(*after.shape[:-1], -1) for tensor in dense)
        meanwhile(DenseWrite(layer, block.dense, scale, inputs, outputs * scale, after))
        seen.dense = dense  # it may have been probed meanwhile

    return block.module.register_forward_hook(tell)


def _parts(block: Block, layer: int, seen: BlockRecord, lane: torch.Tensor | None) -> Iterator[Part]:
    """Yield what each projection of a block read and wrote, each with its factors in the leading lane."""
    if seen.dense is not None:
        inputs, outputs = (tensor.flatten(0, -2) for tensor in seen.dense)
        places = torch.arange(len(inputs), device=inputs.device)
        yield Part(None, places, inputs, outputs, _factors(seen, 0, lane, len(inputs)))
    if block.experts is not None and seen.experts is not None:
        routed = _routed_parts(block.experts, seen.experts)
        _refuse_unlike_sum(block.experts, layer, seen.experts, routed)
        factors = _factors(seen, len(block.sources) - 1, lane, len(seen.experts.whole))
        for part in routed:
            if part.expert is not None and part.expert >= block.experts.count:
                continue  # it hands on what it is given, and holds no matrix
            yield replace(part, factors=times(part.factors, factors[part.places]))


def _factors(seen: BlockRecord, source: int, lane: torch.Tensor | None, tokens: int) -> torch.Tensor:
    """Return what a source's write is multiplied with, in the leading lane: (tokens,) or (tokens, hidden)."""
    factor = seen.factors.get(source)
    if factor is None:
        return torch.ones(tokens)
    if lane is not None:
        each = factor if factor.ndim == 3 else factor[..., None].expand(*factor.shape, lane.shape[-1])
        return each.gather(0, lane.flatten(0, 1)[None])[0]
    return factor


def _routed_parts(experts: Experts, call: ExpertsCall) -> list[Part]:
    with torch.no_grad():
        inputs, outputs = experts.seen(call.hidden, call.index)
    parts = []
    for expert in call.index.unique().tolist():
        own = (call.index == expert).nonzero()[:, 0]
        weights = call.weights[own].float()
        parts.append(Part(expert, call.places[own], inputs[own], outputs[own], weights))
    return parts


def _refuse_unlike_sum(experts: Experts, layer: int, call: ExpertsCall, parts: list[Part]) -> None:
    """Raise where what the experts write, weighted, is not what their module returns."""
    whole = call.whole if call.bias is None else call.whole - call.bias
    total = torch.zeros(whole.shape, device=whole.device)
    for part in parts:
        total.index_add_(0, part.places, part.outputs.float() * part.factors[:, None])
    beside = [] if call.bias is None else [float(call.bias.abs().max())]
    largest = max([*beside, *(float(part.outputs.abs().max()) for part in parts)], default=0.0)
    apart = float((total - whole.float()).abs().max())
    if not apart <= _ROUNDINGS * torch.finfo(whole.dtype).eps * largest:
        raise UnknownArchitecture(
            f"block {layer}: what its experts write, weighted by the router, does not add up to what "
            f"{type(experts.module).__name__} returns (they differ by {apart:g})"
        )


def _arrived(seen: BlockRecord, lane: torch.Tensor | None) -> torch.Tensor:
    """Return what reached the residual stream in its leading lane: (sequences, tokens, hidden)."""
    if seen.arrived is None:
        return torch.zeros(seen.after.shape[1:])  # type: ignore[union-attr]  # the block has ended
    return in_lane(seen.arrived, lane)
