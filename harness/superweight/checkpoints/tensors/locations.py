"""Find the tensor of a coordinate, by the names that checkpoints give their projections."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from superweight.checkpoints.forms import table as forms
from superweight.checkpoints.tensors.checkpoint import Checkpoint, Scalar
from superweight.checkpoints.tensors.decoding import Floats
from superweight.checkpoints.tensors.scales import scale_name
from superweight.checkpoints.tensors.tensor_info import TensorInfo
from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput

if TYPE_CHECKING:
    from superweight.checkpoints.forms.form import Packed

_BLOCK = re.compile(r"(?P<prefix>(?:.*\.)?)(?:layers|h|blocks)\.(?P<layer>\d+)\.(?P<path>.+)")
_GGUF_BLOCK = re.compile(r"(?P<prefix>)blk\.(?P<layer>\d+)\.(?P<path>.+)")
# Towers that stand beside the decoder, and blocks that predict more tokens after it.
_NOT_THE_DECODER = re.compile(
    r"(^|[._])(vision|visual|vit|image|audio|speech|encoder|resampler|talker|token2wav|mtp)([._]|$)"
)
# ChatGLM calls its decoder so.
_DECODER_NAMED_ENCODER = "transformer.encoder."
_MLP = r"(?:mlp|feed_forward|ffn|block_sparse_moe)"
_DENSE = re.compile(
    rf"fc2|ff_out|{_MLP}\.(?:down_proj|c_proj|fc2|dense_4h_to_h|fc_out|w2)|ffn_down"
    rf"|{_MLP}\.shared_experts?\.(?:down_proj|w2)|(?:mlp\.)?shared_mlp\.(?:down_proj|output_linear)|ffn_down_shexp"
)
_ROUTED = re.compile(rf"{_MLP}\.experts\.(?P<expert>\d+)\.(?:down_proj|w2)|ffn_down\.(?P<old_expert>\d+)")
_FUSED = re.compile(
    rf"{_MLP}\.(?:experts|switch_mlp)\.down_proj|block_sparse_moe\.output_linear|ffn_down_exps"
)
# Their modules multiply by the matrix as it lies, (intermediate, hidden).
_TRANSPOSED_DENSE = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_TRANSPOSED_FUSED = ("llama4", "llama4_text", "gpt_oss")
_HIDDEN_SIZES = ("hidden_size", "n_embd", "d_model")


@dataclass(frozen=True)
class Location:
    """One MLP output projection in a checkpoint: W, (hidden, intermediate).

    ``leading`` is the index of the expert in a tensor of several. ``transposed`` says that the
    file holds W as (intermediate, hidden); rows and columns here are always the paper's. ``packed``
    unpacks W where several of its numbers share a stored one; the tensor then has W's shape.
    """

    tensor: TensorInfo
    layer: int
    expert: int | None
    leading: tuple[int, ...] = ()
    transposed: bool = False
    packed: Packed | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(hidden, intermediate)."""
        first, second = self.tensor.shape[-2:]
        return (second, first) if self.transposed else (first, second)

    def scalar(self, checkpoint: Checkpoint, row: int, col: int) -> Scalar:
        """Read W[row, col]."""
        if self.packed is not None:
            return Scalar(*self.packed.at(self.leading, row, col))
        place = (col, row) if self.transposed else (row, col)
        return checkpoint.scalar(self.tensor.name, *self.leading, *place)

    def row(self, checkpoint: Checkpoint, row: int) -> Floats:
        """Read W[row, :]: (intermediate,)."""
        if self.packed is not None:
            return self.packed.row(self.leading, row)
        if self.transposed:
            return np.asarray(self.matrix(checkpoint)[row])
        return checkpoint.row(self.tensor.name, *self.leading, row)

    def matrix(self, checkpoint: Checkpoint) -> Floats:
        """Read W: (hidden, intermediate)."""
        if self.packed is not None:
            return self.packed.matrix(self.leading)
        stored = checkpoint.read(self.tensor.name, *self.leading)
        return stored.T if self.transposed else stored


@dataclass(frozen=True)
class _Named:
    """A projection as its name tells: ``fused`` ones hold all experts of their block."""

    name: str
    prefix: str
    stem: str
    suffix: str
    fused: bool


# The projections of one block by expert; a fused tensor stands under `_ALL`.
_ALL = -1
_Blocks = Mapping[int, Mapping[int | None, _Named]]


def locate(checkpoint: Checkpoint, *coordinates: Coordinate) -> list[Location]:
    """Find the projection that holds each coordinate.

    Raises `BadInput` when no projections are recognised, when the block, expert, row or column is
    not there, and when the weights are packed in a way that is not read.
    """
    blocks = _blocks(checkpoint)
    return [_locate(checkpoint, blocks, coordinate) for coordinate in coordinates]


def locations(checkpoint: Checkpoint) -> list[Location]:
    """Find every MLP output projection, block by block, shared before routed experts.

    Raises `BadInput` as `locate` does.
    """
    found = []
    for layer, block in sorted(_blocks(checkpoint).items()):
        for expert in sorted(block, key=lambda expert: -1 if expert is None else expert):
            named = block[expert]
            count = _info(checkpoint, named)[0].shape[0] if named.fused else 1
            experts = range(count) if named.fused else (expert,)
            found += [_location(checkpoint, named, layer, each) for each in experts]
    return found


def _blocks(checkpoint: Checkpoint) -> _Blocks:
    blocks: dict[int, dict[int | None, _Named]] = {}
    for name in checkpoint.files:
        found = _recognise(name, checkpoint)
        if found is None:
            continue
        layer, expert, named = found
        block = blocks.setdefault(layer, {})
        if (other := block.get(expert)) is not None:
            raise BadInput(
                f"{checkpoint.name} holds both {other.name} and {named.name}; "
                f"which is the output projection of block {layer} is unclear"
            )
        block[expert] = named
    if not blocks:
        raise BadInput(
            f"{checkpoint.name} holds no MLP output projection of a decoder: none of its "
            f"{len(checkpoint.files)} tensors is called as known families do (layers.0.mlp.down_proj.weight)"
        )
    return blocks


def _recognise(name: str, checkpoint: Checkpoint) -> tuple[int, int | None, _Named] | None:
    match = (_GGUF_BLOCK if checkpoint.is_gguf else _BLOCK).fullmatch(name)
    if match is None:
        return None
    prefix = match["prefix"]
    if _NOT_THE_DECODER.search(prefix) and prefix != _DECODER_NAMED_ENCODER:
        return None
    suffix = next((end for end in (forms.PLAIN, *forms.SUFFIXES) if name.endswith(end)), "")
    path = match["path"].removesuffix(suffix)
    layer = int(match["layer"])
    named = _Named(name, prefix, name.removesuffix(suffix), suffix, bool(_FUSED.fullmatch(path)))
    if named.fused:
        return layer, _ALL, named
    if not suffix:  # only tensors of several experts go without
        return None
    if routed := _ROUTED.fullmatch(path):
        return layer, int(routed["expert"] or routed["old_expert"]), named
    return (layer, None, named) if _DENSE.fullmatch(path) else None


def _locate(checkpoint: Checkpoint, blocks: _Blocks, coordinate: Coordinate) -> Location:
    block = blocks.get(coordinate.layer)
    if block is None:
        raise BadInput(
            f"coordinate {coordinate} names block {coordinate.layer}, but {checkpoint.name} has "
            f"blocks {min(blocks)} to {max(blocks)}"
        )
    named = block.get(coordinate.expert)
    if named is None and coordinate.expert is not None:
        named = block.get(_ALL)
    if named is None:
        raise _no_such_expert(coordinate, block)
    location = _location(checkpoint, named, coordinate.layer, coordinate.expert)
    if named.fused and location.leading[0] >= location.tensor.shape[0]:
        raise BadInput(
            f"coordinate {coordinate} names expert {coordinate.expert}, but {named.name} has "
            f"experts 0 to {location.tensor.shape[0] - 1}"
        )
    hidden, intermediate = location.shape
    if coordinate.row >= hidden or coordinate.col >= intermediate:
        raise BadInput(
            f"coordinate {coordinate} lies outside the ({hidden}, {intermediate}) output projection of "
            f"block {coordinate.layer}"
        )
    return location


def _no_such_expert(coordinate: Coordinate, block: Mapping[int | None, _Named]) -> BadInput:
    if coordinate.expert is None:
        return BadInput(
            f"coordinate {coordinate} names no expert, but block {coordinate.layer} is a mixture of experts "
            "without a shared one; write LAYER,EXPERT,ROW,COL"
        )
    routed = [expert for expert in block if expert is not None]
    if not routed:
        return BadInput(f"coordinate {coordinate} names an expert, but block {coordinate.layer} is dense")
    return BadInput(
        f"coordinate {coordinate} names expert {coordinate.expert}, but block {coordinate.layer} has "
        f"experts {min(routed)} to {max(routed)}"
    )


def _location(checkpoint: Checkpoint, named: _Named, layer: int, expert: int | None) -> Location:
    info, packed = _info(checkpoint, named)
    leading = (expert,) if named.fused and expert is not None else ()
    # Unpacking gives outputs before inputs, whatever the family.
    transposed = packed is None and _transposed(checkpoint, named, info)
    location = Location(info, layer, expert, leading, transposed, packed)
    # Of a remote checkpoint the config would be one more request.
    hidden = _hidden_size(checkpoint) if checkpoint.received is None else None
    if hidden is not None and location.shape[0] != hidden:
        raise BadInput(
            f"{info.file.name}: {info.name} of shape {list(info.shape)} does not write to the {hidden} "
            "channels that config.json names; one of the two is wrong"
        )
    return location


def _info(checkpoint: Checkpoint, named: _Named) -> tuple[TensorInfo, Packed | None]:
    """Return a tensor as its numbers lie in W, and what unpacks them where they are packed."""
    info = checkpoint.info(named.name)
    packed = None if checkpoint.is_gguf else forms.find(checkpoint, named.name, named.suffix)
    if checkpoint.merged is not None:
        packed = checkpoint.merged(named.name, info.shape if packed is None else packed.shape, packed)
    if packed is not None:
        info = replace(info, dtype=packed.kind, shape=packed.shape)
    else:
        scale_name(info, checkpoint.files)  # refuses what has no scale before its shape is looked at
    if len(info.shape) != 2 + named.fused:
        raise BadInput(f"{info.file.name}: {info.name} of shape {list(info.shape)} is no output projection")
    return info, packed


def _transposed(checkpoint: Checkpoint, named: _Named, info: TensorInfo) -> bool:
    """Tell which way round a matrix is stored, where families differ: by model type, else by shape."""
    if checkpoint.is_gguf or not (named.fused or named.stem.endswith("c_proj")):
        return False
    config = _text_config(checkpoint)
    families = _TRANSPOSED_FUSED if named.fused else _TRANSPOSED_DENSE
    if config.get("model_type") in families or checkpoint.config.get("model_type") in families:
        return True
    hidden = _hidden_size(checkpoint)
    if hidden is None:
        hidden = _length_of_bias(checkpoint, named)
    first, second = info.shape[-2:]
    if hidden not in (first, second):
        raise BadInput(
            f"{info.file.name}: which way round {info.name} of shape {list(info.shape)} is stored "
            "cannot be told; put its config.json beside it"
        )
    return first != hidden


def _text_config(checkpoint: Checkpoint) -> Mapping[str, object]:
    text_config = checkpoint.config.get("text_config")
    return text_config if isinstance(text_config, dict) else checkpoint.config


def _hidden_size(checkpoint: Checkpoint) -> int | None:
    """Return how many channels the residual stream has by config.json, where that says so."""
    config = _text_config(checkpoint)
    sizes = (config.get(key) for key in _HIDDEN_SIZES)
    return next((size for size in sizes if isinstance(size, int)), None)


def _length_of_bias(checkpoint: Checkpoint, named: _Named) -> int | None:
    """Return the length of what is added to the output, which is the model's hidden size."""
    name = named.stem + (".bias" if not named.fused else "_bias")
    return checkpoint.info(name).shape[-1] if name in checkpoint.files else None
