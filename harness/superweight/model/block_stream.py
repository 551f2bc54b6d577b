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
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from superweight.core.errors import BrokenModel, UnknownArchitecture
from superweight.model.architecture import Architecture
from superweight.model.experts import ExpertProjection, Experts
from superweight.model.forward_override import shadowed
from superweight.model.half_blocks import whole_blocks
from superweight.model.prefix_cache import hands_on
from superweight.model.projections import Projection
from superweight.model.recipes import Recipe
from superweight.model.sparse_memory import sparse_tensor

# As many tensors are read at once; each range is a request of its own where the files are remote.
AT_ONCE = 4
# What is asked of a table without reading a number of it.
_OF_NO_NUMBERS = ("__get__", "size", "dim", "numel", "is_floating_point", "is_complex", "data_ptr")


@dataclass(frozen=True)
class Place:
    """Where a parameter or buffer of a model belongs: its module, its name there, and in the whole."""

    module: nn.Module
    own: str
    name: str

    @property
    def tensor(self) -> torch.Tensor:
        found: torch.Tensor = getattr(self.module, self.own)
        return found

    def put(self, value: torch.Tensor) -> None:
        """Put a tensor there."""
        if self.own in self.module._buffers:
            self.module._buffers[self.own] = value
        else:
            self.module._parameters[self.own] = nn.Parameter(value, requires_grad=False)


@dataclass(frozen=True)
class Unit:
    """What one block holds: the names of its parameters, and of those that routed experts share."""

    names: tuple[str, ...]
    routed: tuple[str, ...] = ()
    experts: int = 0


@dataclass
class Routed:
    """The routed experts of one block: their stacks, and which experts of them are in memory."""

    experts: Experts
    stacks: dict[str, tuple[Place, Callable[[int], torch.Tensor]]]
    present: set[int] = field(default_factory=set)


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
        made: Sequence[Recipe],
        *,
        ahead: bool = True,
    ) -> None:
        self.model = model
        self.architecture = architecture
        self.ahead = ahead
        self.hold_back = False
        self.last: int | None = None
        self.told: Callable[[str], None] = lambda _: None
        self.entered: list[int] = []
        self._recipes = {target: recipe for recipe in made for target in recipe.targets}
        self._empty = {
            name: place
            for name, place in _tensors(model).items()
            if place.tensor.is_meta or name in self._recipes
        }
        self._meta = {
            name: torch.empty_like(place.tensor, device="meta") for name, place in self._empty.items()
        }
        for name, place in self._empty.items():
            place.put(self._meta[name])  # some classes draw theirs at random on any device
        self._units = whole_blocks(model, architecture.blocks)
        self._inside = self._by_unit()
        self._routed = {id(item.experts.module): item for item in self._find_routed(architecture)}
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
        recipe = self._recipes.get(name)
        return () if recipe is None else recipe.stored_in()

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
                        f"{type(self.model).__name__} uses the same {type(inner).__name__} in several blocks, "
                        "so it is not run block by block; scan it without --stream"
                    )
        inside: list[set[str]] = [set() for _ in self._units]
        for name, place in self._empty.items():
            number = by_module.get(id(place.module))
            if number is not None:
                inside[number].add(name)
        return inside

    def _find_routed(self, architecture: Architecture) -> Iterator[Routed]:
        """Yield the experts that can be brought one by one: those of which each has tensors of its own."""
        for block in architecture.layout:
            experts = block.experts
            if experts is None or type(experts) is not Experts:
                continue
            own = {name: place for name, place in self._empty.items() if place.module is experts.module}
            stacks = {}
            for name, place in own.items():
                if place.tensor.ndim < 3 or place.tensor.shape[0] != experts.count:
                    continue
                recipe = self._recipes.get(name)
                one = None if recipe is None else recipe.parts(experts.count)
                if one is not None:
                    stacks[name] = (place, one)
            if stacks:
                yield Routed(experts, stacks)

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
            index = [*arguments, *keywords.values()][1]
            named = index.unique().tolist()
            self._bring_experts(routed, [expert for expert in named if expert < routed.experts.count])

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
        routed.present |= set(due)

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
        recipe = self._recipes.get(name)
        one = None if recipe is None else recipe.parts(module.num_embeddings)
        if one is None or others or not name.endswith("weight"):

            def whole(*arguments: Any, **keywords: Any) -> Any:
                self._bring(names)
                for other in names:
                    self._pinned.setdefault(other, 1)
                return forward(*arguments, **keywords)

            return whole
        rows = _Rows(place, one, self._readers, self._accept)

        def looked_up(*arguments: Any, **keywords: Any) -> Any:
            with rows.there():
                return forward(*arguments, **keywords)

        return looked_up

    def _bring(self, names: Iterable[str]) -> None:
        due = [name for name in names if name not in self._resident]
        stacked = {name: routed for routed in self._routed.values() for name in routed.stacks}
        jobs: dict[int, Recipe] = {}
        for name in due:
            if name in stacked:
                place, _ = stacked[name].stacks[name]
                place.put(sparse_tensor(tuple(place.tensor.shape), place.tensor.dtype))
                self._resident.add(name)
                stacked[name].present.clear()
            elif name in self._recipes:
                recipe = self._recipes[name]
                jobs[id(recipe)] = recipe
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

    def _read(self, recipe: Recipe) -> dict[str, torch.Tensor]:
        if self._ended.is_set():
            raise UnknownArchitecture("the stream was closed while it was read")
        return recipe.bring()

    def _accept(self, name: str, value: torch.Tensor, empty: torch.Tensor) -> None:
        """Refuse what is not of the shape that the model has there, and numbers that are none."""
        if value.shape != empty.shape:
            raise BrokenModel(
                f"tensor {name} has shape {list(value.shape)} where config.json asks for "
                f"{list(empty.shape)}; the two do not belong together"
            )
        if value.is_floating_point() and value.numel():
            least, most = value.aminmax()
            if not bool(torch.isfinite(least) & torch.isfinite(most)):
                raise BrokenModel(f"tensor {name} holds NaN or infinity; the file is damaged")

    def _release(self, names: Iterable[str]) -> None:
        for name in list(names):
            self._empty[name].put(self._meta[name])
            self._resident.discard(name)


class _Guarded(nn.Parameter):
    """A table of which not all rows are there: whoever reads it outside of a look-up is refused."""

    called: str

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        if name not in _OF_NO_NUMBERS:
            called = next(item.called for item in args if isinstance(item, cls))
            raise UnknownArchitecture(
                f"{called} is read by {name}, not row by row, so the model is not run block by block; "
                "scan it without --stream"
            )
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class _Rows(TorchFunctionMode):
    """Brings the rows of one embedding as they are looked up, and lets nothing else read it."""

    def __init__(
        self,
        place: Place,
        one: Callable[[int], torch.Tensor],
        readers: ThreadPoolExecutor,
        accept: Callable[[str, torch.Tensor, torch.Tensor], None],
    ) -> None:
        super().__init__()
        self._place = place
        self._one = one
        self._readers = readers
        self._accept = accept
        self._meta = place.tensor
        self._table = sparse_tensor(tuple(self._meta.shape), self._meta.dtype)
        self._present: set[int] = set()
        self._guard()

    @contextmanager
    def there(self) -> Iterator[None]:
        """Have the table in its place for one call of the embedding."""
        self._place.put(self._table)
        try:
            with self:
                yield
        finally:
            self._guard()

    def _guard(self) -> None:
        """Leave in the table's place what says where it lies, and raises when it is read."""
        guarded = _Guarded(self._table, requires_grad=False)
        guarded.called = self._place.name
        self._place.module._parameters[self._place.own] = guarded

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tables = [item for item in args if isinstance(item, torch.Tensor) and self._is_table(item)]
        if func is nn.functional.embedding and len(args) > 1 and self._is_table(args[1]):
            self._bring(args[0])
        elif tables and getattr(func, "__name__", "") not in _OF_NO_NUMBERS:
            self._bring(torch.arange(len(self._table)))  # it may look at any of them
        return func(*args, **(kwargs or {}))

    def _is_table(self, item: Any) -> bool:
        return isinstance(item, torch.Tensor) and item.data_ptr() == self._table.data_ptr()

    def _bring(self, ids: torch.Tensor) -> None:
        due = sorted({int(token) for token in ids.unique()} - self._present)
        with torch.overrides.BaseTorchFunctionMode():
            for token, row in zip(due, self._readers.map(self._one, due), strict=True):
                self._accept(self._place.name, row, self._meta[token])
                self._table[token] = row
        self._present |= set(due)


def _tensors(model: PreTrainedModel) -> dict[str, Place]:
    """Return the parameters of a model and the buffers that its files hold, each once."""
    found: dict[str, Place] = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for own, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and own not in module._non_persistent_buffers_set:
                found[prefix + own] = Place(module, own, prefix + own)
    return found
