"""Hooks that record one forward pass, and the sums by which its parts are checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from superweight.core.errors import NotFinite, UnknownArchitecture
from superweight.model.architecture import Architecture
from superweight.model.batch_rows import entering
from superweight.model.block_writers import Block
from superweight.model.experts import Experts, ExpertsCall
from superweight.model.followed_writes import FollowedWrites, times
from superweight.model.half_blocks import HalfBlock
from superweight.model.lanes import in_lane, lanes_of, leading_lane
from superweight.model.projections import LinearProjection
from superweight.model.residual_stream import stream
from superweight.model.stream_sum import StreamSum, stream_sum

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
    are those that stand between a block's MLP and the stream.
    """

    residual: list[torch.Tensor] = field(default_factory=list)
    parts: list[list[Part]] = field(default_factory=list)
    arrived: list[torch.Tensor] = field(default_factory=list)
    carry: list[float] = field(default_factory=list)
    lanes: list[torch.Tensor | None] = field(default_factory=list)
    norms: list[nn.Module | None] = field(default_factory=list)


@dataclass
class _Seen:
    """What the hooks of one block caught."""

    writes: FollowedWrites
    dense: tuple[torch.Tensor, torch.Tensor] | None = None
    experts: ExpertsCall | None = None
    before: torch.Tensor | None = None  # (lanes, sequences, tokens, hidden), as after
    after: torch.Tensor | None = None
    # What the block's other parts returned, by path, and which of them are norms.
    others: dict[str, torch.Tensor] = field(default_factory=dict)
    norms: set[str] = field(default_factory=set)
    # The parts, by path, that are no norms and were given what carries the MLP's write.
    readers: list[str] = field(default_factory=list)
    # What the last norm behind a write was given and returned, (tokens, hidden).
    last_norm: tuple[torch.Tensor, torch.Tensor] | None = None
    carry: float = 1.0
    norm: nn.Module | None = None
    arrived: torch.Tensor | None = None
    factors: dict[int, torch.Tensor] = field(default_factory=dict)
    # The number by which the dense projection's write arrives, where it is a plain one.
    scale: float | None = None


@contextmanager
def recorded(
    architecture: Architecture,
    start: int = 0,
    meanwhile: Meanwhile | None = None,
    held: Collection[int] = (),
    tokens: tuple[int, int] = (0, 0),
) -> Iterator[Record]:
    """Record the forward pass that is run inside, from block ``start`` on.

    ``meanwhile`` is told of each block as it ends, where nothing but a factor stands between a
    dense projection and the residual stream. ``held`` are the blocks whose stream an edit sets to a
    value, which no part of them wrote. ``tokens``, (sequences, tokens), tells a stream's lanes apart.

    The record is complete after the ``with`` block. Raises `NotFinite` where the residual stream
    overflowed, and `UnknownArchitecture` where what the projections wrote does not add up to what the
    block's MLP wrote.
    """
    layout = architecture.layout[start:]
    record, caught = Record(), [_Seen(FollowedWrites(len(block.sources))) for block in layout]
    entered: list[torch.Tensor] = []
    with ExitStack() as hooks:
        first = architecture.blocks[start]
        before = first.register_forward_pre_hook(_before_blocks(entered), with_kwargs=True)
        hooks.callback(before.remove)
        for layer, (block, seen) in enumerate(zip(layout, caught, strict=True), start):
            watch = _Watch(block, layer, seen, architecture.hidden, tokens, patched=layer in held)
            watch.place(hooks)
            if meanwhile is not None:
                hooks.callback(_tell(block, layer, seen, meanwhile).remove)
        yield record
    _keep_stream(record, lanes_of(entered[0], architecture.hidden, tokens))
    for layer, (block, seen) in enumerate(zip(layout, caught, strict=True), start):
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
        record.norms.append(seen.norm)
        record.arrived.append(_arrived(seen, record.lanes[-1]))
        record.parts.append(list(_parts(block, layer, seen, record.lanes[-1])))


def _keep_stream(record: Record, lanes: torch.Tensor) -> None:
    lane = leading_lane(lanes)
    record.residual.append(in_lane(lanes, lane))
    record.lanes.append(lane)


def _before_blocks(entered: list[torch.Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def before(_: nn.Module, arguments: Any, keywords: Any) -> None:
        entered.append(entering(arguments, keywords).detach().clone())

    return before


@dataclass(frozen=True)
class _Watch:
    """The hooks on one block, and what they keep."""

    block: Block
    layer: int
    seen: _Seen
    hidden: int
    tokens: tuple[int, int]
    patched: bool

    @property
    def name(self) -> str:
        return f"block {self.layer} ({type(self.block.module).__name__})"

    def place(self, hooks: ExitStack) -> None:
        """Put the hooks on the block's parts, those of inner parts before those of outer ones."""
        block, own = self.block, self.block.sources
        handles = [block.module.register_forward_pre_hook(self._begin, with_kwargs=True)]
        for path, part in _others(block):
            handles.append(part.register_forward_hook(self._keeper(path)))
        if block.dense is not None:
            handles.append(block.dense.module.register_forward_hook(self._dense_wrote))
        if block.experts is not None:
            module = block.experts.module
            handles.append(module.register_forward_hook(self._experts_wrote, with_kwargs=True))
        within = {id(inner) for module in own for inner in module.modules()}
        for part in block.module.modules():
            if part is block.module or id(part) in within:
                continue
            inside = {at for at, module in enumerate(own) if module in set(part.modules())}
            if inside:
                handles.append(part.register_forward_hook(self._follower(inside)))
            elif _is_norm(part):
                handles.append(part.register_forward_hook(self._norm_ran))
        handles.append(block.module.register_forward_hook(self._end))
        for handle in handles:
            hooks.callback(handle.remove)

    def _begin(self, _: nn.Module, arguments: Any, keywords: Any) -> None:
        if self.seen.after is not None:
            raise UnknownArchitecture(
                f"{self.name} runs several times in one pass (it is looped), so it has no one stream after it"
            )
        self.seen.before = lanes_of(entering(arguments, keywords).detach().clone(), self.hidden, self.tokens)
        self.seen.others.clear()
        self.seen.norms.clear()
        self.seen.readers.clear()
        self.seen.last_norm = None
        self.seen.writes.carriers.clear()
        self.seen.norm = None

    def _dense_wrote(self, _: nn.Module, arguments: Any, output: torch.Tensor) -> None:
        # What is added in place to what a projection returned is not its own write.
        self.seen.dense = arguments[0].detach(), output.detach().clone()
        self.seen.writes.wrote(0, self.seen.dense[1].flatten(0, -2))

    def _experts_wrote(self, _: nn.Module, arguments: Any, keywords: Any, output: torch.Tensor) -> None:
        if self.block.experts is not None:
            self.seen.experts = self.block.experts.call(arguments, keywords, output)
            self.seen.writes.wrote(len(self.block.sources) - 1, self.seen.experts.whole)

    def _follower(self, inside: set[int]) -> Callable[[nn.Module, Any, Any], None]:
        def follow(_: nn.Module, arguments: Any, output: Any) -> None:
            whole = _first(output)
            if whole is not None and whole.numel() and whole.shape[-1] == self.hidden:
                self.seen.writes.returned(inside, whole.detach().flatten(0, -2).clone())

        return follow

    def _norm_ran(self, norm: nn.Module, arguments: Any, output: Any) -> None:
        given, whole = _first(arguments), _first(output)
        if len(arguments) != 1:
            return  # what reads several tensors adds them up
        if not self.seen.writes.carriers or given is None or whole is None:
            return
        if given.shape == whole.shape and given.shape[-1] == self.hidden:
            rows = (given.detach().flatten(0, -2).clone(), whole.detach().flatten(0, -2).clone())
            self.seen.writes.normed(*rows)
            self.seen.last_norm = rows
            if any(carrier.value is rows[1] for carrier in self.seen.writes.carriers):
                self.seen.norm = norm

    def _keeper(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, arguments: Any, output: Any) -> None:
            self._note_reader(path, module, arguments)
            first, before = _first(output), self.seen.before
            if first is None or before is None or first.numel() != before[0].numel():
                return
            if first.shape[-1] == self.hidden and first.is_floating_point():
                self.seen.others[path] = first.detach().clone()
                if _is_norm(module) and len(arguments) == 1:
                    self.seen.norms.add(path)

        return keep

    def _note_reader(self, path: str, module: nn.Module, arguments: Any) -> None:
        given = _first(arguments)
        if given is None or _is_norm(module) or next(module.parameters(), None) is None:
            return
        rows = given.detach().flatten(0, -2)
        if any(torch.equal(carrier.value, rows) for carrier in self.seen.writes.carriers):
            self.seen.readers.append(f"{path} ({type(module).__name__})")

    def _end(self, module: nn.Module, arguments: Any, output: Any) -> None:
        seen, given = self.seen, self.seen.before
        after = lanes_of(stream(output).detach().clone(), self.hidden, self.tokens)
        if given is None or after.shape != given.shape:
            raise UnknownArchitecture(f"{self.name} does not return a stream of the shape it is given")
        seen.after = after
        if self.block.sources and not seen.writes.carriers:
            raise UnknownArchitecture(f"{self.name} ran without its MLP; it cannot be measured")
        if self.patched:
            self._settle([[torch.tensor([[self.block.scale]])] * len(seen.writes.carriers)])
        elif bool(after.isfinite().all()):
            self._settle(self._explained(given, after))
        seen.before = None
        seen.others.clear()
        seen.norms.clear()
        self.seen.last_norm = None

    def _explained(self, before: torch.Tensor, after: torch.Tensor) -> list[list[torch.Tensor]]:
        """Return the gains of the carried writes in every lane; refuse what does not add up."""
        writes = [carrier.value for carrier in self.seen.writes.carriers]
        # Lanes differ by little at first: told apart by how they differ from the first one.
        rows = [
            (lane if at == 0 else lane.double() - before[0].double()).flatten(0, 1)
            for at, lane in enumerate(before)
        ]
        if any(write.shape != rows[0].shape for write in writes):
            raise UnknownArchitecture(
                f"{self.name} hands on a stream of {tuple(rows[0].shape)} numbers, and its MLP writes "
                f"{tuple(writes[0].shape)}"
            )
        try:
            sums = [self._sum(rows, lane.flatten(0, 1), writes) for lane in after]
        except UnknownArchitecture as error:
            if not self.seen.readers:
                raise
            by = self.seen.readers[0]
            raise UnknownArchitecture(f"{error}; what its MLP writes is read by {by}") from None
        self.seen.carry = median(found.carry for found in sums)
        return [list(found.gains) for found in sums]

    def _sum(self, before: list[torch.Tensor], after: torch.Tensor, writes: list[torch.Tensor]) -> StreamSum:
        seen, target = self.seen, after
        others = {path: write.flatten(0, -2) for path, write in seen.others.items()}
        if seen.last_norm is not None and torch.equal(seen.last_norm[1], after):
            target = seen.last_norm[0]  # a norm at the block's end: what it was given is the sum
        known = [after, *writes]
        others = {
            path: write
            for path, write in others.items()
            if not any(torch.equal(write, item) for item in known)
        }
        parts = [write for path, write in others.items() if "." not in path and path not in seen.norms]
        norms = [write for path, write in others.items() if "." not in path and path in seen.norms]
        inner = [write for path, write in others.items() if "." in path]
        found = stream_sum(self.name, target, before, writes, (parts, norms, inner), self.block.scale)
        return found if target is after else replace(found, carry=1.0)

    def _settle(self, gains: list[list[torch.Tensor]]) -> None:
        """Keep what arrived in each lane, and by which factor each source's write did."""
        seen = self.seen
        carriers = seen.writes.carriers
        if not carriers:
            return
        shape = seen.after.shape  # type: ignore[union-attr]  # the block has ended
        values = [carrier.value for carrier in carriers]
        sums = [sum(gain.to(value) * value for gain, value in zip(own, values, strict=True)) for own in gains]
        seen.arrived = torch.stack(sums).view(shape)  # type: ignore[arg-type]  # none is empty
        for at, carrier in enumerate(carriers):
            for source, factor in carrier.factors.items():
                if len(gains) > 1:
                    factor = torch.stack([_by(factor, own[at]) for own in gains])
                elif len(carriers) > 1:
                    factor = _by(factor, gains[0][at])
                seen.factors[source] = factor  # of one carrier the rest is told from what arrived
        scale, gain = carriers[0].scale, gains[0][0]
        if self.block.experts is None and len(gains) == gain.numel() == 1 and scale is not None:
            seen.scale = scale * float(gain)


def _by(factor: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """Multiply a source's factor by a gain that is one number, (tokens, 1) or (1, hidden)."""
    return times(factor, gain[:, 0] if gain.shape[1] == 1 else gain.expand(len(factor), -1)).to(factor.dtype)


def _others(block: Block) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts of a block that do not hold its MLP's projections and are not within its MLP."""
    own = set(block.sources)
    holding = {id(part) for part in block.module.modules() if own & set(part.modules())}
    holding |= {id(inner) for part in own for inner in part.modules()}
    # A list runs nothing: what lies beside the MLP in one is no part of the MLP (T5).
    holding -= {id(part) for part in block.module.modules() if isinstance(part, nn.ModuleList)}
    for path, part in block.module.named_modules():
        inside = path.split(".")[:-1]
        parents = [block.module.get_submodule(".".join(inside[: n + 1])) for n in range(len(inside))]
        if path and id(part) not in holding and not any(id(parent) in holding for parent in parents):
            yield path, part


def _first(output: Any) -> torch.Tensor | None:
    """Return a tensor, or the first of several, or None."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, torch.Tensor) else None


def _tell(block: Block, layer: int, seen: _Seen, meanwhile: Meanwhile) -> RemovableHandle:
    def tell(_: nn.Module, arguments: Any, output: Any) -> None:
        dense, scale = seen.dense, seen.scale
        if block.dense is None or dense is None or scale is None or isinstance(block.module, HalfBlock):
            return
        after = stream(output).detach()
        inputs, outputs = (tensor.reshape(*after.shape[:-1], -1) for tensor in dense)
        meanwhile(DenseWrite(layer, block.dense, scale, inputs, outputs * scale, after))
        seen.dense = dense  # it may have been probed meanwhile

    return block.module.register_forward_hook(tell)


def _is_norm(module: nn.Module) -> bool:
    """Tell whether a module is a gain over channels, and no more: at most two 1-D parameters."""
    parameters = list(module.parameters())
    return 0 < len(parameters) <= 2 and all(parameter.ndim == 1 for parameter in parameters)


def _parts(block: Block, layer: int, seen: _Seen, lane: torch.Tensor | None) -> Iterator[Part]:
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


def _factors(seen: _Seen, source: int, lane: torch.Tensor | None, tokens: int) -> torch.Tensor:
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


def _arrived(seen: _Seen, lane: torch.Tensor | None) -> torch.Tensor:
    """Return what reached the residual stream in its leading lane: (sequences, tokens, hidden)."""
    if seen.arrived is None:
        return torch.zeros(seen.after.shape[1:])  # type: ignore[union-attr]  # the block has ended
    return in_lane(seen.arrived, lane)
