"""Hooks that record one forward pass, and the sums by which its parts are checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from superweight.core.errors import NotFinite, UnknownArchitecture
from superweight.model.architecture import Architecture, Block, stream
from superweight.model.batch_rows import entering
from superweight.model.experts import Experts
from superweight.model.projections import LinearProjection
from superweight.model.stream_sum import stream_sum

# How far the sum of the parts may lie from the whole, in steps of the dtype at the whole's largest
# value: each of a few dozen terms is rounded once, in an order of its own.
_ROUNDINGS = 64.0


@dataclass(frozen=True)
class Part:
    """What one projection read and wrote, for n tokens of the batch; ``places`` count row by row.

    ``inputs``: (n, intermediate), ``outputs``: (n, hidden), ``places`` and ``factors``: (n,).
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

    ``arrived`` and ``residual`` entries: (sequences, tokens, hidden). ``carry`` is by what each block
    multiplies the stream that it is given: 1 but for the families that scale it as a whole. ``norms``
    are those that stand between a block's MLP and the stream.
    """

    residual: list[torch.Tensor] = field(default_factory=list)
    parts: list[list[Part]] = field(default_factory=list)
    arrived: list[torch.Tensor] = field(default_factory=list)
    carry: list[float] = field(default_factory=list)
    norms: list[nn.Module | None] = field(default_factory=list)


@dataclass
class _Seen:
    """What the hooks of one block caught."""

    dense: tuple[torch.Tensor, torch.Tensor] | None = None
    # The very tensor that the dense projection returned: a norm behind it is known by reading it.
    returned: torch.Tensor | None = None
    experts: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    whole: torch.Tensor | None = None
    normed: torch.Tensor | None = None
    # The norm that returned it.
    norm: nn.Module | None = None
    before: torch.Tensor | None = None
    # What the block's other parts returned, by path, and what the norms among them were given.
    others: dict[str, torch.Tensor] = field(default_factory=dict)
    norm_inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    gain: float = 1.0
    carry: float = 1.0


@contextmanager
def recorded(
    architecture: Architecture,
    start: int = 0,
    meanwhile: Meanwhile | None = None,
    held: Collection[int] = (),
) -> Iterator[Record]:
    """Record the forward pass that is run inside, from block ``start`` on.

    ``meanwhile`` is told of each block as it ends, where nothing but a factor stands between a
    dense projection and the residual stream. ``held`` are the blocks whose stream an edit sets to a
    value, which no part of them wrote.

    The record is complete after the ``with`` block. Raises `NotFinite` where the residual stream
    overflowed, and `UnknownArchitecture` where what the projections wrote does not add up to what the
    block's MLP wrote.
    """
    layout = architecture.layout[start:]
    record, caught = Record(), [_Seen() for _ in layout]
    with ExitStack() as hooks:
        first = architecture.blocks[start]
        before = first.register_forward_pre_hook(_before_blocks(record), with_kwargs=True)
        hooks.callback(before.remove)
        for layer, (block, seen) in enumerate(zip(layout, caught, strict=True), start):
            _watch(block, layer, seen, record, hooks, patched=layer in held)
            if meanwhile is not None:
                hooks.callback(_tell(block, layer, seen, meanwhile).remove)
        yield record
    for layer, (block, seen, after) in enumerate(
        zip(layout, caught, record.residual[1:], strict=True), start
    ):
        if not bool(after.isfinite().all()):
            raise NotFinite(layer, str(after.dtype).removeprefix("torch."))
        parts = _parts(block, seen)
        record.parts.append(parts)
        record.carry.append(seen.carry)
        record.norms.append(seen.norm)
        record.arrived.append(_arrived(block, layer, seen, parts, after.shape))


def _watch(block: Block, layer: int, seen: _Seen, record: Record, hooks: ExitStack, *, patched: bool) -> None:
    def after_dense(_: nn.Module, arguments: Any, output: torch.Tensor) -> None:
        # What is added in place to what a projection returned is not its own write.
        seen.dense = arguments[0].detach(), output.detach().clone()
        seen.returned = output.detach()

    def after_experts(_: nn.Module, arguments: Any, keywords: Any, output: torch.Tensor) -> None:
        passed: list[torch.Tensor] = [*arguments, *keywords.values()]
        hidden, index, weights = passed
        seen.experts = hidden.detach(), index, weights, output.detach()

    def after_mixture(_: nn.Module, arguments: Any, output: Any) -> None:
        seen.whole = stream(output).detach()

    def after_child(norm: nn.Module, arguments: Any, output: Any) -> None:
        whole = seen.returned if block.mixture is None and seen.experts is None else _whole(block, seen)
        # A norm that reads what the MLP wrote stands between it and the residual stream.
        if whole is not None and arguments and _same_write(arguments[0], whole):
            seen.normed, seen.norm = output.detach(), norm

    def before_block(_: nn.Module, arguments: Any, keywords: Any) -> None:
        seen.before = entering(arguments, keywords).detach().clone()
        seen.others.clear()
        seen.norm_inputs.clear()

    def after_block(module: nn.Module, arguments: Any, output: Any) -> None:
        after = stream(output).detach()
        record.residual.append(after)
        if seen.before is None or after.shape != seen.before.shape:
            raise UnknownArchitecture(
                f"block {layer} ({type(module).__name__}) does not return a stream of the shape it is given"
            )
        if patched:
            seen.gain = block.scale
        elif bool(after.isfinite().all()):
            _explain(block, layer, seen, seen.before, after)
        seen.before = None
        seen.others.clear()
        seen.norm_inputs.clear()

    hooks.callback(block.module.register_forward_pre_hook(before_block, with_kwargs=True).remove)
    for path, part in _others(block):
        hooks.callback(part.register_forward_hook(_keep(seen, path)).remove)
    if block.dense is not None:
        hooks.callback(block.dense.module.register_forward_hook(after_dense).remove)
    if block.experts is not None:
        handle = block.experts.module.register_forward_hook(after_experts, with_kwargs=True)
        hooks.callback(handle.remove)
    if block.mixture is not None:
        hooks.callback(block.mixture.register_forward_hook(after_mixture).remove)
    for child in block.module.children():
        if _is_norm(child):
            hooks.callback(child.register_forward_hook(after_child).remove)
    hooks.callback(block.module.register_forward_hook(after_block).remove)


def _others(block: Block) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts of a block that do not hold its MLP's projections and are not within its MLP."""
    own = {item.module for item in (block.dense, block.experts) if item is not None}
    holding = {id(part) for part in block.module.modules() if own & set(part.modules())}
    holding |= {id(inner) for part in own for inner in part.modules()}
    for path, part in block.module.named_modules():
        inside = path.split(".")[:-1]
        parents = [block.module.get_submodule(".".join(inside[: n + 1])) for n in range(len(inside))]
        if path and id(part) not in holding and not any(id(parent) in holding for parent in parents):
            yield path, part


def _keep(seen: _Seen, path: str) -> Callable[[nn.Module, Any, Any], None]:
    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        first = output if isinstance(output, torch.Tensor) else None
        if first is None and isinstance(output, (tuple, list)) and output:
            first = output[0]
        before = seen.before
        if not isinstance(first, torch.Tensor) or before is None or first.numel() != before.numel():
            return
        if first.shape[-1] == before.shape[-1] and first.is_floating_point():
            seen.others[path] = first.detach().clone()
            if _is_norm(module) and arguments and isinstance(arguments[0], torch.Tensor):
                seen.norm_inputs[path] = arguments[0].detach().clone()

    return keep


def _explain(block: Block, layer: int, seen: _Seen, before: torch.Tensor, after: torch.Tensor) -> None:
    """Learn by what the block multiplies its stream and its MLP's write; refuse what does not add up."""
    whole = _whole(block, seen)
    reached = whole if seen.normed is None else seen.normed
    if reached is not None and reached.numel() != after.numel():
        raise UnknownArchitecture(
            f"block {layer} ({type(block.module).__name__}) hands on {after.shape[-1]} channels, and "
            f"its MLP writes to {reached.shape[-1]}: streams in several lanes are not supported"
        )
    target = after
    for path, given in seen.norm_inputs.items():
        # A norm at the block's end: what it was given is the sum.
        if given.shape == after.shape and torch.equal(seen.others[path].reshape(after.shape), after):
            target = given
    other = {
        path: write
        for path, write in seen.others.items()
        if not torch.equal(write.reshape(after.shape), after)
    }
    if reached is not None:
        other = {path: w for path, w in other.items() if not torch.equal(w.flatten(), reached.flatten())}
    parts = [write for path, write in other.items() if "." not in path and path not in seen.norm_inputs]
    norms = [write for path, write in other.items() if "." not in path and path in seen.norm_inputs]
    inner = [write for path, write in other.items() if "." in path]
    place = f"block {layer} ({type(block.module).__name__})"
    found = stream_sum(place, target, before, reached, (parts, norms, inner), block.scale)
    seen.gain, seen.carry = found.gain, found.carry if target is after else 1.0


def _tell(block: Block, layer: int, seen: _Seen, meanwhile: Meanwhile) -> RemovableHandle:
    def tell(_: nn.Module, arguments: Any, output: Any) -> None:
        dense = seen.dense
        if block.dense is None or block.experts is not None or dense is None or seen.normed is not None:
            return
        after = stream(output).detach()
        inputs, outputs = (tensor.reshape(*after.shape[:-1], -1) for tensor in dense)
        meanwhile(DenseWrite(layer, block.dense, seen.gain, inputs, outputs * seen.gain, after))
        seen.dense = dense  # it may have been probed meanwhile

    return block.module.register_forward_hook(tell)


def _is_norm(module: nn.Module) -> bool:
    """Tell whether a module is a gain over channels, and no more: at most two 1-D parameters."""
    parameters = list(module.parameters())
    return 0 < len(parameters) <= 2 and all(parameter.ndim == 1 for parameter in parameters)


def _same_memory(one: Any, other: torch.Tensor) -> bool:
    return (
        isinstance(one, torch.Tensor) and one.data_ptr() == other.data_ptr() and one.numel() == other.numel()
    )


def _same_write(read: Any, whole: torch.Tensor) -> bool:
    """Tell whether a norm reads what the MLP wrote, times a number at most."""
    if _same_memory(read, whole):
        return True
    if not isinstance(read, torch.Tensor) or read.numel() != whole.numel():
        return False
    one, other = read.detach().flatten().double(), whole.flatten().double()
    product, sizes = float(one @ other), float(one.norm() * other.norm())
    return sizes > 0 and abs(product) >= sizes * (1 - 1e-9)


def _whole(block: Block, seen: _Seen) -> torch.Tensor | None:
    """Return what the block's MLP wrote, before any norm behind it."""
    if block.mixture is not None:
        return seen.whole
    if seen.experts is not None:
        return seen.experts[3]
    return None if seen.dense is None else seen.dense[1]


def _before_blocks(record: Record) -> Callable[[nn.Module, Any, Any], None]:
    def before(_: nn.Module, arguments: Any, keywords: Any) -> None:
        record.residual.append(entering(arguments, keywords).detach())

    return before


def _parts(block: Block, seen: _Seen) -> list[Part]:
    routed = [] if block.experts is None else list(_routed_parts(block.experts, seen))
    if seen.dense is None:
        return routed
    inputs, outputs = (tensor.flatten(0, -2) for tensor in seen.dense)
    places = torch.arange(len(inputs), device=inputs.device)
    factors = torch.ones(len(inputs), device=inputs.device)
    if seen.whole is not None and seen.experts is not None:
        # A gate may stand behind the shared experts: what they add, over what they wrote.
        added = seen.whole.flatten(0, -2).float() - seen.experts[3].flatten(0, -2).float()
        wrote = outputs.float()
        factors = (added * wrote).sum(-1) / (wrote * wrote).sum(-1).clamp_min(1e-30)
    return [Part(None, places, inputs, outputs, factors), *routed]


def _routed_parts(experts: Experts, seen: _Seen) -> Iterator[Part]:
    if seen.experts is None:
        return
    hidden, index, weights, _ = seen.experts
    hidden = hidden.flatten(0, -2)
    index, weights = index.flatten(0, -2), weights.flatten(0, -2)
    places = torch.arange(len(hidden), device=hidden.device).repeat_interleave(index.shape[-1])
    index, weights = index.flatten(), weights.flatten()
    with torch.no_grad():
        inputs, outputs = experts.seen(hidden[places], index)
    for expert in index.unique().tolist():
        own = (index == expert).nonzero()[:, 0]
        yield Part(expert, places[own], inputs[own], outputs[own], weights[own].float())


def _arrived(block: Block, layer: int, seen: _Seen, parts: list[Part], shape: torch.Size) -> torch.Tensor:
    """Return what reached the residual stream, (sequences, tokens, hidden), once the parts add up."""
    whole = _whole(block, seen)
    if not block.projections:
        return torch.zeros(shape)
    if whole is None:
        raise UnknownArchitecture(
            f"block {layer} ran without its MLP output projection; it cannot be measured"
        )
    if block.experts is not None:
        total = torch.zeros(whole.flatten(0, -2).shape, device=whole.device)
        for part in parts:
            total.index_add_(0, part.places, part.outputs.float() * part.factors[:, None])
        step = torch.finfo(whole.dtype).eps * max(float(part.outputs.abs().max()) for part in parts)
        apart = float((total - whole.flatten(0, -2).float()).abs().max())
        if not apart <= _ROUNDINGS * step:
            raise UnknownArchitecture(
                f"block {layer}: what its experts write, weighted by the router, does not add up to what "
                f"{type(block.experts.module).__name__} returns (they differ by {apart:g})"
            )
    reached = whole if seen.normed is None else seen.normed
    return reached.reshape(shape) * seen.gain
