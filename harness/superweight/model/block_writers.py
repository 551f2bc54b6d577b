"""Find, in one decoder block, the projections by which its MLP writes to the residual stream.

That is the linear map of a feed-forward network that ends at the stream, or the 3-D parameter that holds
one for every expert, or both. What tells them apart is structure, and `NAMING_RULES` where that does not.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from superweight.model.expert_modules import GroupedStack, TwiceNamed, WholeStack
from superweight.model.experts import Experts
from superweight.model.naming_rules import NAMING_RULES
from superweight.model.projections import LinearProjection, Projection


@dataclass(frozen=True)
class Block:
    """One decoder block and what its MLP writes with; nothing where it only mixes tokens.

    ``dense`` is its one projection, or that of its shared experts; ``experts`` are the routed
    ones. ``scale`` multiplies the write on its way to the residual stream, as far as the block says so.
    """

    module: nn.Module
    dense: LinearProjection | None
    experts: Experts | None = None
    scale: float = 1.0

    @property
    def sources(self) -> tuple[nn.Module, ...]:
        """The modules by which the block's MLP writes."""
        return tuple(item.module for item in (self.dense, self.experts) if item is not None)

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        dense = () if self.dense is None else (self.dense,)
        return dense if self.experts is None else (*dense, *self.experts.projections)


def block_writers(module: nn.Module, layer: int, hidden: int, dtype: torch.dtype) -> Block | str:
    """Return what a block writes with, or what is wrong with it in words."""
    ending = _ending_at_the_stream(module, layer, hidden, dtype)
    linear = _chosen_by_name(ending)
    if tables := _expert_tables(module, hidden):
        return f"found {tables[0]}, an embedding that holds an expert in each row: such writes are not read"
    # One linear map behind them is the block's one writer; beside another it is not told which is which.
    if len(ending) > 1 and (latent := _latent_experts(module, hidden)):
        return f"found {latent}, whose experts do not write to the stream but to channels of their own"
    routed = [
        experts
        for path, part in module.named_modules()
        if not any(name in path for name in NAMING_RULES.not_text)
        for experts in (
            *_experts(part, layer, hidden, dtype),
            *(() if _is_mixer(module, path) else _grouped_experts(part, layer, hidden, dtype)),
        )
    ]
    if len(linear) > 1:
        return f"found {len(linear)}: {', '.join(linear)}"
    if len(routed) > 1:
        kinds = ", ".join(type(experts.module).__name__ for experts in routed)
        return f"found {len(routed)} sets of routed experts ({kinds})"
    if not linear and not routed:
        if _only_mixes(module, hidden):
            return Block(module, None)
        fault = next(filter(None, (_mixer(module, path) for path in ending)), None)
        return fault or (
            f"found {', '.join(ending)}, none under a name that tells which" if ending else "found none"
        )
    path, dense = next(iter(linear.items()), ("", None))
    experts = routed[0] if routed else None
    if experts is not None and (fault := _unlike(experts.module)):
        return fault
    if dense is not None and experts is None and (fault := _mixer(module, path)):
        return fault
    scale = getattr(module, NAMING_RULES.write_scale, 1.0)
    return Block(module, dense, experts, float(scale))


def _expert_tables(block: nn.Module, hidden: int) -> list[str]:
    """Return the embeddings in a block whose rows are as wide as the stream (Doge's experts)."""
    return [
        path
        for path, part in block.named_modules()
        if isinstance(part, nn.Embedding) and part.embedding_dim == hidden and not _is_mixer(block, path)
    ]


def _latent_experts(block: nn.Module, hidden: int) -> str:
    """Return the experts that write to fewer channels than the stream has, or nothing (Nemotron 3 super)."""
    for path, part in block.named_modules():
        for name, parameter in part.named_parameters(recurse=False):
            named = parameter.ndim == 3 and name in NAMING_RULES.output_projections
            if named and _positional(part) == 3 and hidden not in parameter.shape[1:]:
                return f"{path} ({type(part).__name__})"
    return ""


def _ending_at_the_stream(
    block: nn.Module, layer: int, hidden: int, dtype: torch.dtype
) -> dict[str, LinearProjection]:
    """Return the linear maps of a block, outside its mixers and norms, that end at the stream's width."""
    found = {}
    for path, module in block.named_modules():
        shape = None if _is_mixer(block, path) or _is_in_norm(path) else _linear_shape(module)
        if shape is not None and shape[0] == hidden:
            transposed = isinstance(module, Conv1D)
            found[path] = LinearProjection(module, layer, *shape, dtype, transposed)
    return found


def _chosen_by_name(found: dict[str, LinearProjection]) -> dict[str, LinearProjection]:
    """Of several linear maps return those under the name of an output projection."""
    names = NAMING_RULES.output_projections
    return (
        found
        if len(found) <= 1
        else {path: item for path, item in found.items() if path.rpartition(".")[2] in names}
    )


def _is_mixer(block: nn.Module, path: str) -> bool:
    """Tell whether a part of a block mixes tokens, or lies in one that does."""
    if any(name in path.lower() for name in NAMING_RULES.mixers):
        return True
    names = path.split(".")
    parts = [block.get_submodule(".".join(names[: n + 1])) for n in range(len(names))] if path else []
    return any(_is_mixer_class(block, part) for part in parts)


def _is_mixer_class(block: nn.Module, part: nn.Module) -> bool:
    """Tell whether a part's class is named after what mixes tokens, beside its family's name."""
    own, outer = type(part).__name__, type(block).__name__
    # A block within the block holds more than the mixer it is named after.
    if "layer" in own.lower():
        return False
    said = own.removeprefix(_family(own, outer)) if own != outer else own
    words = [said[at.start() :].lower() for at in re.finditer("[A-Z][a-z0-9]*|[a-z0-9]+", said)]
    return any(word.startswith(name) for word in words for name in NAMING_RULES.mixer_classes)


def _family(own: str, outer: str) -> str:
    """Return with what two class names both begin."""
    same = [one == other for one, other in zip(own, outer, strict=False)]
    return own[: same.index(False)] if False in same else own[: len(same)]


def _is_in_norm(path: str) -> bool:
    """Tell whether a part lies in a norm, whose gate may be a small network."""
    return any("norm" in name.lower() for name in path.split(".")[:-1])


def _only_mixes(block: nn.Module, hidden: int) -> bool:
    """Tell whether every matrix of a block lies in a mixer, and there is one."""
    matrices = [
        path.rpartition(".")[0] for path, parameter in block.named_parameters() if parameter.ndim >= 2
    ]
    return bool(matrices) and all(_is_mixer(block, path) for path in matrices)


def _linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return (outputs, inputs) of a linear map, quantised ones included, or None."""
    if isinstance(module, Conv1D):
        return module.nf, module.nx
    outputs = getattr(module, "out_features", None)
    inputs = getattr(module, "in_features", None)
    if isinstance(outputs, int) and isinstance(inputs, int):
        return outputs, inputs
    return None


def _experts(module: nn.Module, layer: int, hidden: int, dtype: torch.dtype) -> Iterator[Experts]:
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.ndim != 3 or name not in NAMING_RULES.output_projections:
            continue
        count, outputs, inputs = parameter.shape
        whole = _positional(module) == 1
        transposed = bool(getattr(module, "is_transposed", whole))
        if transposed:
            outputs, inputs = inputs, outputs
        if outputs == hidden:
            twice = hasattr(module, NAMING_RULES.identity_experts)
            kind = WholeStack if whole else TwiceNamed if twice else Experts
            yield kind(module, name, layer, count, hidden, inputs, dtype, transposed)
    said = getattr(module, "num_experts", None)
    for name, parameter in module.named_parameters():
        # All experts' matrices one under another, in a part of the module that routes to them (DBRX).
        flat = parameter.ndim == 2 and name.rpartition(".")[2] in NAMING_RULES.output_projections
        if flat and isinstance(said, int) and _positional(module) == 3 and parameter.shape[1] == hidden:
            inputs = parameter.shape[0] // said
            yield Experts(module, name, layer, said, hidden, inputs, dtype, transposed=True)


def _grouped_experts(module: nn.Module, layer: int, hidden: int, dtype: torch.dtype) -> Iterator[Experts]:
    """Yield the experts of a module that routes to them, where a part of it holds all output projections."""
    name = NAMING_RULES.grouped_output
    parameter = getattr(getattr(module, name, None), "weight", None)
    if not isinstance(getattr(module, "router", None), nn.Module) or not isinstance(parameter, nn.Parameter):
        return
    if parameter.ndim == 3 and parameter.shape[1] == hidden and _positional(module) == 1:
        count, _, inputs = parameter.shape
        yield GroupedStack(module, f"{name}.weight", layer, count, hidden, inputs, dtype)


def _positional(module: nn.Module) -> int:
    parameters = inspect.signature(module.forward).parameters.values()
    return len([item for item in parameters if item.kind is item.POSITIONAL_OR_KEYWORD])


def _unlike(experts: nn.Module) -> str:
    """Return how a module of experts differs from those that can be read, or nothing."""
    if _positional(experts) not in (1, 3) or getattr(experts, "has_post_expert_norm", False):
        return (
            f"found {type(experts).__name__}, which is not called with hidden states, top-k index and "
            "top-k weights, or does more to an expert's write than to weight it"
        )
    return ""


def _mixer(block: nn.Module, path: str) -> str:
    """Return why what holds the projection at ``path`` is no feed-forward network, or nothing."""
    parent = block.get_submodule(path.rpartition(".")[0])
    strange = [name for name, _ in parent.named_parameters(recurse=False)]
    strange += [name for name, part in parent.named_modules() if isinstance(part, nn.modules.conv._ConvNd)]
    if strange:
        return f"found {path}, but {type(parent).__name__} mixes tokens (it has {strange[0]})"
    return ""
