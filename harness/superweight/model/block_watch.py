"""Watch one decoder block through a forward pass: the hooks on its parts, and what they keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from superweight.core.errors import UnknownArchitecture
from superweight.model.arrived_writes import BlockRecord, explained, settle
from superweight.model.batch_rows import entering
from superweight.model.block_writers import Block
from superweight.model.lanes import lanes_of
from superweight.model.residual_stream import stream


@dataclass(frozen=True)
class BlockWatch:
    """The hooks on one block, and what they keep."""

    block: Block
    layer: int
    seen: BlockRecord
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
        # After the block's end each expert is asked for its own part.
        if self.block.experts is not None and self.seen.after is None:
            self.seen.experts = self.block.experts.call(arguments, keywords, output)
            self.seen.writes.wrote(len(self.block.sources) - 1, self.seen.experts.whole)

    def _follower(self, inside: set[int]) -> Callable[[nn.Module, Any, Any], None]:
        def follow(_: nn.Module, arguments: Any, output: Any) -> None:
            whole = _first(output)
            if whole is not None and whole.numel() and whole.shape[-1] == self.hidden:
                self.seen.writes.returned(inside, whole.detach().flatten(0, -2).clone())

        return follow

    def _norm_ran(self, norm: nn.Module, arguments: Any, output: Any) -> None:
        if self.seen.after is not None:
            return  # it is asked for its gains
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
        routed = self.block.experts is not None
        after = lanes_of(stream(output).detach().clone(), self.hidden, self.tokens)
        if given is None or after.shape != given.shape:
            raise UnknownArchitecture(f"{self.name} does not return a stream of the shape it is given")
        seen.after = after
        if self.block.sources and not seen.writes.carriers:
            raise UnknownArchitecture(f"{self.name} ran without its MLP; it cannot be measured")
        if self.patched:
            settle(seen, [[torch.tensor([[self.block.scale]])] * len(seen.writes.carriers)], routed=routed)
        elif bool(after.isfinite().all()):
            settle(seen, explained(self.name, seen, self.block.scale, given, after), routed=routed)
        seen.before = None
        seen.others.clear()
        seen.norms.clear()
        self.seen.last_norm = None


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


def _is_norm(module: nn.Module) -> bool:
    """Tell whether a module is a gain over channels, and no more: at most two 1-D parameters."""
    parameters = list(module.parameters())
    return 0 < len(parameters) <= 2 and all(parameter.ndim == 1 for parameter in parameters)
