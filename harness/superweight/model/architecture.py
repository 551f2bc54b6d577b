"""Find a decoder's blocks and, in each block, the projections by which its MLP writes.

Both are found by structure, not by model name: the blocks are the list of modules that stands
nearest to the token embedding and is as long as the model is deep; an MLP output projection is the
linear map of a feed-forward network that ends at the residual stream, or the 3-D parameter that
holds one for every expert. What structure leaves open is told by `NAMING_RULES`, and what neither
tells is refused.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput, UnknownArchitecture
from superweight.model.experts import Experts, GroupedStack, TwiceNamed, WholeStack
from superweight.model.half_blocks import in_halves
from superweight.model.projections import LinearProjection, Projection


class NamingRules(NamedTuple):
    """What the code of some model families calls a thing that structure alone does not tell."""

    # The output projection, where several linear maps of a block end at the residual stream.
    output_projections: tuple[str, ...] = (
        "down_proj",
        "c_proj",
        "fc2",
        "fc_out",
        "dense_4h_to_h",
        "w2",
        "proj_down",
    )
    # Parts of a block that mix tokens, by path or class, whatever linear maps they hold.
    mixers: tuple[str, ...] = ("attn", "attention", "mamba", "shortconv", "ssm", "recurrent", "deltanet")
    # What a class of such a part is called where its path does not say so.
    mixer_classes: tuple[str, ...] = (*mixers, "mixer")
    # Experts for what is no text, beside those for text.
    not_text: tuple[str, ...] = ("vision", "image", "audio")
    # The part that holds the output projections of all experts, beside a router of its own (JetMoE).
    grouped_output: str = "output_linear"
    # What stands for the experts that only hand on what they are given (LongCat-Flash).
    identity_experts: str = "identity_expert"
    # A number of the block by which the MLP's write is multiplied before it is added (Granite).
    write_scale: str = "residual_multiplier"
    # The setting that says whether attention sees later tokens, and how it says so (XLNet).
    attention_type: str = "attn_type"
    bidirectional: str = "bi"


NAMING_RULES = NamingRules()


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


@dataclass(frozen=True)
class Architecture:
    """A decoder's blocks in order, and every MLP output projection in them."""

    layout: tuple[Block, ...]
    hidden: int

    @cached_property
    def blocks(self) -> tuple[nn.Module, ...]:
        return tuple(block.module for block in self.layout)

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        """All projections, block by block; of a dense model exactly one for each block."""
        return tuple(projection for block in self.layout for projection in block.projections)

    @cached_property
    def _by_place(self) -> dict[tuple[int, int | None], Projection]:
        return {(projection.layer, projection.expert): projection for projection in self.projections}

    def writer(self, layer: int, expert: int | None = None) -> Projection:
        """Return the projection of a block, or of one of its experts; raises `BadInput` if absent."""
        if (layer, expert) in self._by_place:
            return self._by_place[layer, expert]
        if layer >= len(self.layout):
            raise BadInput(f"there is no block {layer}: the model has blocks 0 to {len(self.layout) - 1}")
        experts = self.layout[layer].experts
        if not self.layout[layer].projections:
            raise BadInput(f"block {layer} holds no MLP: it only mixes tokens")
        if experts is None:
            raise BadInput(f"block {layer} has no expert {expert}; it is dense")
        if expert is None:
            raise BadInput(f"block {layer} has only routed experts; name one of 0 to {experts.count - 1}")
        raise BadInput(f"block {layer} has no expert {expert}; it has experts 0 to {experts.count - 1}")

    def projection(self, coordinate: Coordinate) -> Projection:
        """Return the projection that holds ``coordinate``; raises `BadInput` if none does."""
        try:
            projection = self.writer(coordinate.layer, coordinate.expert)
        except BadInput as error:
            raise BadInput(f"coordinate {coordinate}: {error}") from None
        if coordinate.row >= projection.hidden or coordinate.col >= projection.intermediate:
            raise BadInput(
                f"coordinate {coordinate} lies outside the ({projection.hidden}, "
                f"{projection.intermediate}) output projection of block {coordinate.layer}"
            )
        return projection

    def value(self, coordinate: Coordinate) -> float:
        """Return the scalar the model computes with at ``coordinate``."""
        return self.projection(coordinate).value(coordinate.row, coordinate.col)


def inspect_architecture(model: PreTrainedModel) -> Architecture:
    """Find the blocks and output projections of ``model``.

    Raises `UnknownArchitecture`, naming the class and what was looked for, when structure does not
    tell; a model is measured wholly or not at all.
    """
    name = type(model).__name__
    count, hidden = _depth_and_width(model)
    if count is None or hidden is None:
        raise UnknownArchitecture(
            f"{name} does not say its num_hidden_layers and hidden_size, "
            "so it is no decoder this harness can read"
        )
    if count < 1:
        raise UnknownArchitecture(
            f"{name}: config.json has {count} blocks (num_hidden_layers), and one is needed"
        )
    if _said(model.config) is None and len(lists := _named_lists(model, count)) > 1:
        raise UnknownArchitecture(
            f"{name}: config.json says no depth of the whole, and its blocks lie in {_listed(lists)}, which "
            "hand on streams of their own"
        )
    blocks = _blocks(model, count)
    if blocks is None:
        raise UnknownArchitecture(f"{name}: {_no_one_list(model, count)}")
    blocks = in_halves(blocks)
    if _sees_later_tokens(model, blocks):
        raise UnknownArchitecture(
            f"{name} is an encoder, or reads a prompt as one: its attention sees later tokens, and a causal "
            "decoder was looked for"
        )
    layout = []
    for layer, module in enumerate(blocks):
        block = _block(module, layer, hidden, model.dtype)
        if isinstance(block, str):
            raise UnknownArchitecture(
                f"{name}: looked in block {layer} ({type(module).__name__}) for the linear map by which "
                f"a feed-forward network writes to the {hidden} channels of the residual stream; {block}"
            )
        layout.append(block)
    if not any(block.projections for block in layout):
        raise UnknownArchitecture(
            f"{name}: its {count} blocks hold no feed-forward network, only mixers of tokens, whose output "
            "projections are not looked at"
        )
    return Architecture(tuple(layout), hidden)


def _depth_and_width(model: PreTrainedModel) -> tuple[int | None, int | None]:
    """Return how many blocks and channels the config names, that of the innermost part if need be."""
    inner = [part for part in _holding(model) if isinstance(part, PreTrainedModel)]
    said = (_said(config) for config in (model.config, *(part.config for part in inner)))
    return next((found for found in said if found is not None), (None, None))


def _said(config: PreTrainedConfig) -> tuple[int, int] | None:
    """Return how many blocks and channels a config names of its decoder, or None."""
    text = config.get_text_config()
    count, hidden = (getattr(text, name, None) for name in ("num_hidden_layers", "hidden_size"))
    return (count, hidden) if isinstance(count, int) and isinstance(hidden, int) else None


def _holding(model: PreTrainedModel) -> list[nn.Module]:
    """Return the parts of a model that hold its token embedding, the smallest first; none without one."""
    embedding = token_embedding(model)
    holding = [part for part in model.modules() if any(inner is embedding for inner in part.modules())]
    return sorted(holding, key=lambda part: len(list(part.modules())))


def token_embedding(model: PreTrainedModel) -> nn.Module | None:
    """Return the module that turns token ids into vectors, or None."""
    try:
        embedding: nn.Module = model.get_input_embeddings()
    except NotImplementedError:  # the class does not say which: the one for text, if there is one
        words = getattr(model.config.get_text_config(), "vocab_size", None)
        tables = [part for part in model.modules() if isinstance(part, nn.Embedding)]
        return next((table for table in tables if table.num_embeddings == words), None)
    return embedding


def _sees_later_tokens(model: PreTrainedModel, blocks: nn.ModuleList) -> bool:
    if getattr(model.config, NAMING_RULES.attention_type, None) == NAMING_RULES.bidirectional:
        return True
    said = [
        (getattr(module, "is_decoder", None), getattr(module, "is_causal", None))
        for path, module in blocks.named_modules()
        if not _is_cross_attention(path)  # that of a decoder reads an encoder, which is not run
    ]
    return any(decoder is False or (causal is False and not decoder) for decoder, causal in said)


def _is_cross_attention(path: str) -> bool:
    return any(
        name in path.lower() for name in ("encoder_attn", "crossattention", "encdecattention", "cross_attn")
    )


def _blocks(model: PreTrainedModel, count: int) -> nn.ModuleList | None:
    """Return the one list of ``count`` modules in the smallest part that also holds the embedding.

    A vision tower may be as deep as the decoder beside it, but has no token embedding. Where no list is
    as long as the config says (it may count an encoder's blocks, or those of a block twice), the one list
    that lies in no other is meant.
    """
    beside_encoder = bool(getattr(model.config, "is_encoder_decoder", False))
    for part in _holding(model):
        lists = _outermost_lists(part, count)
        if beside_encoder:
            lists = [item for item in lists if _reads_an_encoder(item)]
        matching = [item for item in lists if len(item) == count] or lists
        if len(matching) > 1:  # an encoder's beside a decoder's
            matching = [item for item in matching if _reads_an_encoder(item)] or matching
        if matching:
            return matching[0] if len(matching) == 1 else None
    return None


def _no_one_list(model: PreTrainedModel, count: int) -> str:
    """Say why no one list of modules is the decoder's blocks."""
    lists = _named_lists(model, count)
    found = _listed(lists)
    looked = f"looked for one list of {count} blocks near the token embedding; found"
    if len(lists) < 2:
        return f"{looked} {found or 'none'}"
    if count > sum(lists.values()):
        return f"{looked} {found}: {sum(lists.values())} blocks, so they run several times (it is looped)"
    if bool(getattr(model.config, "is_encoder_decoder", False)):
        return f"{looked} {found}, none of which has attention of its own to what an encoder read"
    if len({path.rpartition(".")[0] for path in lists}) == 1 and set(lists.values()) == {count}:
        return f"{looked} {found}: the parts of a block lie in lists of their own, and no module is a block"
    return f"{looked} {found}, and which of them is the decoder is not told"


def _named_lists(model: PreTrainedModel, count: int) -> dict[str, int]:
    """Return the lists of modules in a model that lie in no other list, and how long they are."""
    names = {id(item): path for path, item in model.named_modules()}
    return {names[id(item)]: len(item) for item in _outermost_lists(model, count)}


def _listed(lists: dict[str, int]) -> str:
    return ", ".join(f"{path} ({length})" for path, length in lists.items())


def _reads_an_encoder(blocks: nn.ModuleList) -> bool:
    return any(_is_cross_attention(path) for path, _ in blocks.named_modules())


def _outermost_lists(part: nn.Module, count: int) -> list[nn.ModuleList]:
    """Return the lists of several modules that lie in no other list; of one, where ``count`` is one."""
    found: dict[str, nn.ModuleList] = {}
    for path, item in part.named_modules():
        inner = any(path.startswith(f"{other}.") for other in found)
        if isinstance(item, nn.ModuleList) and len(item) >= min(2, count) and not inner:
            found[path] = item
    return list(found.values())


def _block(module: nn.Module, layer: int, hidden: int, dtype: torch.dtype) -> Block | str:
    """Return what a block writes with, or what is wrong with it in words."""
    ending = _ending_at_the_stream(module, layer, hidden, dtype)
    linear = _chosen_by_name(ending)
    if tables := _expert_tables(module, hidden):
        return f"found {tables[0]}, an embedding that holds an expert in each row: such writes are not read"
    if latent := _latent_experts(module, hidden):
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


def stream(output: Any) -> torch.Tensor:
    """Return the residual stream from what a block returns: a tensor, or a tuple led by it."""
    tensor: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return tensor


def plain_stream(output: Any, hidden: int) -> torch.Tensor:
    """Return the residual stream from what a block returns; refuse one in several lanes."""
    tensor = stream(output)
    if tensor.ndim != 3 or tensor.shape[-1] != hidden:
        raise UnknownArchitecture(
            f"its residual stream runs in several lanes, {tuple(tensor.shape)}: a scan finds what they "
            "carry, but an activation there cannot be held at a value"
        )
    return tensor


def with_stream(output: Any, stream: torch.Tensor) -> Any:
    """Return what a block returns with another residual stream in it."""
    if isinstance(output, torch.Tensor):
        return stream
    parts = (stream, *output[1:])
    return type(output)(*parts) if hasattr(output, "_fields") else parts
