"""Plant scalars where the gradient of the residual stream says that they are written from.

Nothing of the package is used here: which list of modules is the stream's, which matrices write to it
and what scalar makes a massive activation is all read off the running model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import transformers
from torch import nn

from tools.tiny_configs import HIDDEN

CHANNEL = 17

# What writes to the stream and is no feed-forward network: mixers, projections of per-layer embeddings.
_MIXERS = re.compile(
    r"attn|attention|mamba|ssm|conv|recurrent|temporal|time_mix|retention|delta|rwkv|mlstm|mixer_block|mixer.out_proj|cca"
    r"|indexer|q_proj|o_proj|lightning|^per_layer_projection|^laurel|^ple\."
)


@dataclass(frozen=True)
class Writer:
    """A matrix that writes to the channel directly, the scalar of it that matters most, and its gradient.

    ``axis`` is the one of the parameter that counts the channels.
    """

    path: str
    parameter: nn.Parameter
    axis: int
    where: tuple[int, ...]
    gradient: float
    token: int

    @property
    def is_mixer(self) -> bool:
        return _MIXERS.search(self.path.lower()) is not None


def run(model: transformers.PreTrainedModel, ids: torch.Tensor) -> None:
    """Run the decoder without its head."""
    model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)


def runnable_on_text(model: transformers.PreTrainedModel, ids: torch.Tensor) -> transformers.PreTrainedModel:
    """Return the smallest part of a model that runs on text and holds its decoder's blocks.

    The blocks are those of the largest part that runs. Raises what the whole model raised where nothing
    in it does.
    """
    parts = [part for part in model.modules() if isinstance(part, transformers.PreTrainedModel)]
    failed: Exception | None = None
    blocks, smallest = None, None
    for part in sorted(parts, key=lambda part: -sum(item.numel() for item in part.parameters())):
        try:
            with torch.no_grad():
                run(part, ids)
        except Exception as error:
            failed = failed or error
            continue
        blocks = blocks if blocks is not None else block_list(part, ids)
        if blocks is not None and set(blocks) <= set(part.modules()):
            smallest = part
    if smallest is not None:
        return smallest
    raise failed or ValueError("no list of blocks runs on text alone")


def lanes(stream: Any, tokens: int) -> torch.Tensor | None:
    """Return a stream as (lanes, tokens, hidden), or None where it is none of one sequence."""
    if not isinstance(stream, torch.Tensor) or stream.ndim not in (3, 4):
        return None
    if stream.ndim == 3 and stream.shape[:2] == (tokens, 1) and stream.shape[2] == HIDDEN:
        return stream[:, 0][None]  # XLNet counts the tokens first
    if stream.shape[:2] == (1, tokens) and stream[0, 0].numel() % HIDDEN == 0:
        return stream[0].reshape(tokens, -1, HIDDEN).transpose(0, 1)
    if stream.ndim == 3 and stream.shape[0] == 1 and stream.shape[2] == HIDDEN:
        return stream  # CPM-Ant puts tokens of its own before the text
    if stream.ndim == 4 and tuple(stream.shape[1:]) == (1, tokens, HIDDEN):
        return stream[:, 0]
    return None


def block_list(model: nn.Module, ids: torch.Tensor) -> nn.ModuleList | None:
    """Return the outermost list, with most parameters, whose members, those that run, return a stream."""
    lists = {
        path: part
        for path, part in model.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) >= 2
    }
    members = list({id(item): item for part in lists.values() for item in part}.values())
    outputs = {
        id(item): out
        for item, out in zip(members, _outputs(model, members, ids), strict=True)
        if out is not None
    }
    good = {}
    for path, part in lists.items():
        ran = [outputs[id(item)] for item in part if id(item) in outputs]
        if len(ran) >= 2 and all(lanes(item, ids.shape[1]) is not None for item in ran):
            good[path] = part
    outer = [part for path, part in good.items() if not any(path.startswith(f"{other}.") for other in good)]
    return max(outer, key=lambda part: sum(item.numel() for item in part.parameters()), default=None)


def _outputs(model: Any, blocks: Any, ids: torch.Tensor, grad: bool = False) -> list[Any]:
    """Return what every member of a list returned first in one forward pass; None where it did not run."""
    caught: list[Any] = [None] * len(blocks)

    def keeper(place: int) -> Any:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            caught[place] = output[0] if isinstance(output, (tuple, list)) else output

        return keep

    handles = [block.register_forward_hook(keeper(place)) for place, block in enumerate(blocks)]
    try:
        with torch.set_grad_enabled(grad):
            run(model, ids)
    finally:
        for handle in handles:
            handle.remove()
    return caught


def streams(
    model: nn.Module, blocks: nn.ModuleList, ids: torch.Tensor, grad: bool = False
) -> dict[int, torch.Tensor]:
    """Return the stream after every block that runs: (lanes, tokens, hidden)."""
    after = {}
    for layer, output in enumerate(_outputs(model, blocks, ids, grad)):
        stream = lanes(output, ids.shape[1])
        if stream is not None:
            after[layer] = stream
    return after


def kept(model: nn.Module, blocks: nn.ModuleList, ids: torch.Tensor) -> dict[int, float]:
    """Return what the blocks leave of a one that is in the stream after the first: by block.

    A few families multiply the whole stream. That is seen by adding a vector to the stream after a block,
    so large that all norms are saturated by it, and asking how much of it is there after the next one;
    what is within a tenth of one is one.
    """
    after = streams(model, blocks, ids)
    layers = sorted(after)
    left = {layers[0]: 1.0}
    for earlier, later in pairwise(layers):
        signs = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(5)).sign()
        vector = 1e4 * float(after[earlier].abs().median()) * signs
        handle = blocks[earlier].register_forward_hook(_adder(vector))
        try:
            moved = streams(model, blocks, ids)[later] - after[later]
        finally:
            handle.remove()
        share = float((moved @ vector / (vector @ vector)).median())
        left[later] = left[earlier] * (1.0 if abs(share - 1) < 0.1 else max(share, 1e-3))
    return left


def _adder(vector: torch.Tensor) -> Any:
    def add(_: nn.Module, __: Any, output: Any) -> Any:
        stream = output[0] if isinstance(output, (tuple, list)) else output
        moved = stream + vector.repeat(stream.shape[-1] // HIDDEN)
        if not isinstance(output, (tuple, list)):
            return moved
        rest = (moved, *output[1:])
        return type(output)(*rest) if hasattr(output, "_fields") else rest

    return add


def writers(model: nn.Module, blocks: nn.ModuleList, layer: int, ids: torch.Tensor) -> list[Writer]:
    """Return every matrix of a block that writes to the channel itself: its gradient lies in one row."""
    named = [
        (path, item)
        for path, item in blocks[layer].named_parameters()
        if item.ndim >= 2 and item.is_floating_point() and HIDDEN in item.shape and not path.endswith("bias")
    ]
    best: dict[str, Writer] = {}
    for _, item in named:
        item.requires_grad_(True)
    try:
        after = streams(model, blocks, ids, grad=True)[layer]
        for lane in after:
            for token in range(len(lane)):
                grads = torch.autograd.grad(
                    lane[token, CHANNEL], [item for _, item in named], retain_graph=True, allow_unused=True
                )
                for (path, item), grad in zip(named, grads, strict=True):
                    for found in _written(path, item, grad, token):
                        if path not in best or abs(found.gradient) > abs(best[path].gradient):
                            best[path] = found
    finally:
        for _, item in named:
            item.requires_grad_(False)
    return list(best.values())


def _written(path: str, item: nn.Parameter, grad: torch.Tensor | None, token: int) -> Iterator[Writer]:
    if grad is None or not bool(grad.any()):
        return
    for axis in [axis for axis, size in enumerate(item.shape) if size == HIDDEN]:
        along = grad.abs().sum([other for other in range(grad.ndim) if other != axis])
        if float(along[CHANNEL]) >= 0.25 * float(along.sum()):
            own = grad.select(axis, CHANNEL)
            at = [int(place) for place in torch.unravel_index(own.abs().argmax(), own.shape)]
            at.insert(axis, CHANNEL)
            yield Writer(path, item, axis, tuple(at), float(grad[tuple(at)]), token)


def linear_writers(model: nn.Module, blocks: nn.ModuleList, layer: int, ids: torch.Tensor) -> list[Writer]:
    """Return, where there is no gradient (Reformer), the linear maps that end at the stream's width."""
    found: dict[str, Writer] = {}

    def looker(path: str) -> Any:
        def look(module: nn.Linear, arguments: Any, _: Any) -> None:
            read = arguments[0].detach().flatten(0, -2)
            token, col = divmod(int(read.abs().argmax()), read.shape[1])
            where = (CHANNEL, col)
            found[path] = Writer(path, module.weight, 0, where, float(read[token, col]), token)  # type: ignore[arg-type]

        return look

    handles = [
        part.register_forward_hook(looker(f"{path}.weight"))
        for path, part in blocks[layer].named_modules()
        if isinstance(part, nn.Linear) and part.out_features == HIDDEN != part.in_features
    ]
    try:
        streams(model, blocks, ids)
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


@contextmanager
def planted(
    model: nn.Module,
    blocks: nn.ModuleList,
    layer: int,
    ids: torch.Tensor,
    writer: Writer,
    others: Sequence[Writer],
    left: dict[int, float],
) -> Iterator[str]:
    """Put in a scalar that writes a massive activation; yields how the stream carries it, or nothing.

    Where a norm stands behind the write, it bounds it: there the row is made small but for the scalar,
    and the norm's gain of the channel is made large, as in models with such norms.
    """
    parameters = [writer.parameter, *(other.parameter for other in others)]
    gains = [
        (path, item)
        for path, item in blocks[layer].named_parameters()
        if item.ndim == 1 and len(item) == HIDDEN and not path.endswith("bias")
    ]
    saved = [(item, item.detach().clone()) for item in (*parameters, *(item for _, item in gains))]
    typical = max(float(after.abs().median()) for after in streams(model, blocks, ids).values())
    try:
        with torch.no_grad():
            writer.parameter[writer.where] = max(1000.0, 500 * typical) / writer.gradient
        large = _carried(streams(model, blocks, ids), layer, writer.token, left)
        if large > 0.3 * max(1000.0, 500 * typical):
            yield "as written"
            return
        with torch.no_grad():
            _put_back(saved)
            norm = _behind_norm(model, blocks, layer, ids, writer, others, gains, left)
            if norm is None:
                _put_back(saved)
        yield "" if norm is None else f"behind {norm}"
    finally:
        with torch.no_grad():
            _put_back(saved)


def _behind_norm(
    model: nn.Module,
    blocks: nn.ModuleList,
    layer: int,
    ids: torch.Tensor,
    writer: Writer,
    others: Sequence[Writer],
    gains: Sequence[tuple[str, nn.Parameter]],
    left: dict[int, float],
) -> str | None:
    """Plant behind the norm by which the stream carries it, and return its path; or None."""
    big = 10 * float(writer.parameter.select(writer.axis, CHANNEL).abs().max())
    for item in {id(other.parameter): other for other in (writer, *others)}.values():
        item.parameter.select(item.axis, CHANNEL).mul_(1e-4)
    for path, gain in gains:
        before = float(gain[CHANNEL])
        gain[CHANNEL] = 1000.0
        writer.parameter[writer.where] = 0
        without = float(streams(model, blocks, ids)[layer][:, writer.token, CHANNEL].abs().max())
        writer.parameter[writer.where] = big
        large = _carried(streams(model, blocks, ids), layer, writer.token, left)
        if large and without < 0.5 * large:
            return path
        gain[CHANNEL] = before
    return None


def _put_back(saved: Sequence[tuple[nn.Parameter, torch.Tensor]]) -> None:
    for item, before in saved:
        item.copy_(before)


def _carried(after: dict[int, torch.Tensor], layer: int, token: int, left: dict[int, float]) -> float:
    """Return how much the channel stands out at the block if it lasts through most of the later ones, or 0.

    It lasts as long as half of it is there, or half of what the blocks leave of anything.
    """
    layers = [at for at in sorted(after) if at >= layer]
    course = [float(after[at][:, token, CHANNEL].abs().max()) * left[layer] / left[at] for at in layers]
    peak, count = max(course), len(after)
    last = 0
    while last + 1 < len(course) and course[last + 1] >= 0.5 * peak:
        last += 1
    outlying = course[0] > 100 * float(after[layer].abs().median()) and course[0] >= 0.5 * peak
    lasting = last > 0.5 * (len(course) - 1) and last + 1 >= 0.25 * count
    return course[0] if outlying and lasting else 0.0
