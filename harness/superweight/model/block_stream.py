"""Run a model whose weights are not in memory: each block's are brought as it is entered.

The model lies on the meta device. A block's parameters are real from when it is entered until the next one
is, which is being brought meanwhile. Of an embedding only the rows of the tokens are brought, of routed
experts only those that the router chose. What is computed is computed by the model's own classes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from superweight.core.errors import BrokenModel, UnknownArchitecture
from superweight.model.architecture import Architecture
from superweight.model.experts import ExpertProjection
from superweight.model.forward_override import shadowed
from superweight.model.half_blocks import whole_blocks
from superweight.model.parameter_sources import ParameterSource
from superweight.model.places import Unit, places_of
from superweight.model.prefix_cache import hands_on
from superweight.model.projections import Projection
from superweight.model.sparse_memory import sparse_tensor
from superweight.model.streamed_experts import Routed, find_routed
from superweight.model.table_rows import TableRows
from superweight.model.validation import is_finite

# As many tensors are read at once; each range is a request of its own where the files are remote.
AT_ONCE = 4


class BlockStream:
    """Brings the weights of a model as its blocks are entered.

    ``ahead`` says whether the next block is brought while one runs; `hold_back` keeps the next one from
    being brought early, and ``last`` all from that block on. ``entered`` are the blocks that
    were run, and ``told`` is told of each.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        architecture: Architecture,
        made: Sequence[ParameterSource],
    ) -> None:
        self.model = model
        self.architecture = architecture
        self.ahead = True
        self.hold_back = False
        self.last: int | None = None
        self.told: Callable[[str], None] = lambda _: None
        self.entered: list[int] = []
        self._sources = {target: source for source in made for target in source.targets}
        self._empty = {
            name: place
            for name, place in places_of(model).items()
            if place.tensor.is_meta or name in self._sources
        }
        self._meta = {
            name: torch.empty_like(place.tensor, device="meta") for name, place in self._empty.items()
        }
        for name, place in self._empty.items():
            place.put(self._meta[name])  # some classes draw theirs at random on any device
        self._units = whole_blocks(model, architecture.blocks)
        self._inside = self._by_unit()
        self._routed = {
            id(item.experts.module): item for item in find_routed(architecture, self._empty, self._sources)
        }
        self._resident: set[str] = set()
        self._pinned: dict[str, int] = {}
        self._coming: dict[int, Future[None]] = {}
        self._ended = threading.Event()
        self._readers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="superweight-read")
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="superweight-ahead")
        self._hooks = ExitStack()
        self._watch()

    def close(self) -> None:
        """Stop reading, and give all memory back."""
        self._ended.set()
        self._ahead.shutdown(wait=True, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._hooks.close()
        self._release(self._resident - self._pinned.keys())

    def __enter__(self) -> BlockStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def blocks(self) -> tuple[Unit, ...]:
        """What each block holds."""
        stacked = {name: item for item in self._routed.values() for name in item.stacks}
        found = []
        for names in self._inside:
            routed = tuple(sorted(name for name in names if name in stacked))
            experts = stacked[routed[0]].experts.count if routed else 0
            found.append(Unit(tuple(sorted(names)), routed, experts))
        return tuple(found)

    def sources(self, name: str) -> tuple[tuple[str, bool], ...]:
        """Return the stored tensors that a parameter is made of, and which are packed."""
        source = self._sources.get(name)
        return () if source is None else source.stored_in()

    def held(self, names: Iterable[str]) -> int:
        """Return the bytes that parameters take in memory."""
        return sum(self._meta[name].numel() * self._meta[name].itemsize for name in names)

    @contextmanager
    def at_hand(self, projections: Iterable[Projection]) -> Iterator[None]:
        """Bring the weights of some projections, and keep them, for the length of a ``with`` block."""
        names: set[str] = set()
        for projection in projections:
            routed = self._routed.get(id(projection.module))
            own = {id(inner) for inner in projection.module.modules()}
            names |= {name for name, place in self._empty.items() if id(place.module) in own}
            if routed is not None and isinstance(projection, ExpertProjection):
                self._bring_experts(routed, [projection.index])
        self._bring(names)
        for name in names:
            self._pinned[name] = self._pinned.get(name, 0) + 1
        try:
            yield
        finally:
            for name in names:
                self._pinned[name] -= 1
                if not self._pinned[name]:
                    del self._pinned[name]

    def _by_unit(self) -> list[set[str]]:
        holding = {id(place.module) for place in self._empty.values()}
        by_module: dict[int, int] = {}
        for number, unit in enumerate(self._units):
            for inner in unit.modules():
                if id(inner) in holding and by_module.setdefault(id(inner), number) != number:
                    raise UnknownArchitecture(
                        f"{type(self.model).__name__} uses the same {type(inner).__name__} in several "
                        "blocks, so it is not run block by block; scan it without --stream"
                    )
        inside: list[set[str]] = [set() for _ in self._units]
        for name, place in self._empty.items():
            holder = by_module.get(id(place.module))
            if holder is not None:
                inside[holder].add(name)
        return inside

    def _watch(self) -> None:
        """Have every part of the model bring its weights as it is called."""
        within = {id(inner) for unit in self._units for inner in unit.modules()}
        for number, unit in enumerate(self._units):
            hook = unit.register_forward_pre_hook(self._entering(number))
            self._hooks.callback(hook.remove)
        for routed in self._routed.values():
            hook = routed.experts.module.register_forward_pre_hook(self._choosing(routed), with_kwargs=True)
            self._hooks.callback(hook.remove)
        beside: dict[int, list[str]] = {}
        for name, place in self._empty.items():
            if id(place.module) not in within:
                beside.setdefault(id(place.module), []).append(name)
        for module in self.model.modules():
            names = beside.get(id(module))
            if names is None:
                continue
            if isinstance(module, nn.Embedding):
                self._hooks.enter_context(shadowed(module, self._by_rows(module, names)))
            else:
                hook = module.register_forward_pre_hook(self._outside(names))
                self._hooks.callback(hook.remove)

    def _entering(self, number: int) -> Callable[[nn.Module, Any], None]:
        def enter(unit: nn.Module, _: Any) -> None:
            if hands_on(unit):
                return  # a resumed pass skips it
            self._enter(number)

        return enter

    def _enter(self, number: int) -> None:
        self.told(f"block {number} of {len(self._units)}")
        kept = self._pinned.keys() | self._inside[number]
        coming = {other for other in self._coming if other != number}
        for other in coming:
            self._coming.pop(other).result()
        self._release(self._resident - kept)
        if (future := self._coming.pop(number, None)) is not None:
            future.result()
        self._bring(self._inside[number])
        self.entered.append(number)
        following = number + 1
        end = len(self._units) if self.last is None else self.last
        if self.ahead and not self.hold_back and following < end:
            self._coming[following] = self._ahead.submit(self._bring, self._inside[following])

    def _choosing(self, routed: Routed) -> Callable[[nn.Module, Any, Any], None]:
        def choose(_: nn.Module, arguments: Any, keywords: Any) -> None:
            self._bring_experts(routed, routed.experts.chosen(arguments, keywords))

        return choose

    def _bring_experts(self, routed: Routed, chosen: Iterable[int]) -> None:
        self._bring(routed.stacks.keys())
        due = [expert for expert in chosen if expert not in routed.present]

        def bring(expert: int) -> None:
            for name, (place, one) in routed.stacks.items():
                value = one(expert)
                self._accept(name, value, place.tensor[expert])
                place.tensor.data[expert] = value

        list(self._readers.map(bring, due))
        routed.present.update(due)

    def _outside(self, names: list[str]) -> Callable[[nn.Module, Any], None]:
        def bring(_: nn.Module, __: Any) -> None:
            self._bring(names)
            for name in names:  # small, and there may be another pass
                self._pinned.setdefault(name, 1)

        return bring

    def _by_rows(self, module: nn.Embedding, names: list[str]) -> Callable[..., Any]:
        """Return a forward of an embedding that brings the rows it looks up, and no others."""
        forward = module.forward
        (name, *others) = sorted(names, key=lambda name: not name.endswith(".weight"))
        place = self._empty[name]
        source = self._sources.get(name)
        one = None if source is None else source.parts(module.num_embeddings)
        if one is None or others or not name.endswith("weight"):

            def whole(*arguments: Any, **keywords: Any) -> Any:
                self._bring(names)
                for other in names:
                    self._pinned.setdefault(other, 1)
                return forward(*arguments, **keywords)

            return whole
        rows = TableRows(place, one, self._readers, self._accept)

        def looked_up(*arguments: Any, **keywords: Any) -> Any:
            with rows.there():
                return forward(*arguments, **keywords)

        return looked_up

    def _bring(self, names: Iterable[str]) -> None:
        due = [name for name in names if name not in self._resident]
        stacked = {name: routed for routed in self._routed.values() for name in routed.stacks}
        jobs: dict[int, ParameterSource] = {}
        for name in due:
            if name in stacked:
                place, _ = stacked[name].stacks[name]
                place.put(sparse_tensor(tuple(place.tensor.shape), place.tensor.dtype))
                self._resident.add(name)
                stacked[name].present.clear()
            elif name in self._sources:
                source = self._sources[name]
                jobs[id(source)] = source
        try:
            for made in self._readers.map(self._read, jobs.values()):
                for name, value in made.items():
                    place = self._empty[name]
                    self._accept(name, value, place.tensor)
                    place.put(value)
                    self._resident.add(name)
        except BaseException:
            self._ended.set()
            raise

    def _read(self, source: ParameterSource) -> dict[str, torch.Tensor]:
        if self._ended.is_set():
            raise UnknownArchitecture("the stream was closed while it was read")
        return source.bring()

    def _accept(self, name: str, value: torch.Tensor, empty: torch.Tensor) -> None:
        """Refuse what is not of the shape that the model has there, and numbers that are none."""
        if value.shape != empty.shape:
            raise BrokenModel(
                f"tensor {name} has shape {list(value.shape)} where config.json asks for "
                f"{list(empty.shape)}; the two do not belong together"
            )
        if value.is_floating_point() and not is_finite(value):
            raise BrokenModel(f"tensor {name} holds NaN or infinity; the file is damaged")

    def _release(self, names: Iterable[str]) -> None:
        for name in list(names):
            self._empty[name].put(self._meta[name])
            self._resident.discard(name)
