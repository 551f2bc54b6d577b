"""Plant a super weight in every decoder that transformers registers, and ask a scan for it.

    python -m tools.decoder_sweep [MODEL_TYPE ...] [--table FILE]

Every class is built tiny and random. A scalar is planted in every matrix of an early block that writes
to the residual stream outside its mixers: which matrices those are, and what scalar is needed, is read
off the gradient of the stream. Nothing of the package says where to plant.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from superweight.checkpoints.registry import resolve
from superweight.core.errors import HarnessError, one_line
from superweight.detection.scan import SUPPRESSED, scan
from superweight.measurement.corpus import default_prompt
from superweight.model.architecture import inspect_architecture
from superweight.model.loading import load
from superweight.model.subject import Subject
from tools.tiny_configs import HIDDEN, OVERRIDES, tiny_config

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures/checkpoints/tiny-planted"
CHANNEL = 17
FOUND, WRONG, REFUSED, TRACEBACK = "found", "wrong", "refused", "traceback"
NOT_CARRIED, NOT_RUNNABLE = "nothing carried, none found", "not runnable"

# What writes to the stream and is no feed-forward network: mixers, and projections of per-layer embeddings.
_MIXERS = re.compile(
    r"attn|attention|mamba|ssm|conv|recurrent|temporal|time_mix|retention|delta|rwkv|mixer_block|mixer.out_proj|cca"
    r"|indexer|q_proj|o_proj|lightning|^per_layer_projection|^laurel|^ple\."
)


@dataclass(frozen=True)
class Outcome:
    """What a scan made of one class, and the line that says so."""

    model_type: str
    name: str
    result: str
    line: str


@dataclass(frozen=True)
class Writer:
    """A matrix that writes to the channel directly, the scalar of it that matters most, and its gradient."""

    path: str
    parameter: nn.Parameter
    where: tuple[int, ...]
    gradient: float
    token: int


def sweep_one(model_type: str) -> Outcome:
    """Build one class, plant in it, and return what the scan says."""
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]

    def outcome(result: str, line: str) -> Outcome:
        return Outcome(model_type, name, result, line.replace("|", "/"))

    template = load(resolve(str(FIXTURE)), device="cpu")
    ids = torch.tensor([template.encode(default_prompt())])
    try:
        model = build(model_type)
        with torch.no_grad():
            run(model, ids)
    except Exception as error:
        return outcome(NOT_RUNNABLE, f"{type(error).__name__}: {one_line(error)[:120]}")
    try:
        subject = replace(template, name=name, model=model, architecture=inspect_architecture(model))
        twin = scan(subject, default_prompt())
    except HarnessError as error:
        return outcome(REFUSED, one_line(error))
    except Exception as error:
        return outcome(TRACEBACK, f"{type(error).__name__}: {one_line(error)[:120]}")
    if twin.coordinates:
        return outcome(WRONG, f"the unplanted twin is said to have {twin.coordinates}")
    return outcome(*_planted_everywhere(subject, ids))


def build(model_type: str) -> transformers.PreTrainedModel:
    """Return a tiny random model; what would start at zero is drawn at random, too."""
    torch.manual_seed(11)
    auto = transformers.AutoModelForCausalLM
    model = auto.from_config(tiny_config(model_type, OVERRIDES.get(model_type))).eval().float()
    for part in model.modules():
        config = getattr(part, "config", None)
        if getattr(config, "_experts_implementation", None) is not None:
            config._experts_implementation = "eager"
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2 and float(parameter.abs().max()) == 0:
                parameter.normal_(0, 0.05)
            parameter.requires_grad_(False)
    return model  # type: ignore[no-any-return]  # the auto classes are untyped


def run(model: transformers.PreTrainedModel, ids: torch.Tensor) -> None:
    """Run the decoder without its head."""
    model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)


def _planted_everywhere(subject: Subject, ids: torch.Tensor) -> tuple[str, str]:
    blocks = block_list(subject.model, ids)
    if blocks is None:
        return NOT_RUNNABLE, "no list of blocks runs on a stream of (sequences, tokens, hidden)"
    kinds: dict[Any, int] = {}
    for layer in [*range(1, max(2, len(blocks) - 2)), 0]:
        shapes = tuple((path, tuple(item.shape)) for path, item in blocks[layer].named_parameters())
        kinds.setdefault((type(blocks[layer]), shapes), layer)
    results: list[tuple[str, str]] = []
    for layer in sorted(kinds.values()):
        try:
            direct = writers(subject.model, blocks, layer, ids)
        except RuntimeError as error:
            return NOT_RUNNABLE, f"no gradient: {one_line(error)[:120]}"
        for writer in direct:
            if not _MIXERS.search(writer.path.lower()):
                with planted(subject.model, blocks, layer, ids, writer) as held:
                    results.append(_asked(subject, layer, writer, held))
    for result in (WRONG, TRACEBACK, REFUSED):
        if lines := [line for own, line in results if own == result]:
            return result, "; ".join(lines)
    if lines := [line for own, line in results if own == FOUND]:
        return FOUND, "; ".join(lines)
    return NOT_CARRIED, "the stream carries no planted activation"


def _asked(subject: Subject, layer: int, writer: Writer, held: bool) -> tuple[str, str]:
    place = f"{layer}:{writer.path}"
    try:
        said = scan(subject, default_prompt())
    except HarnessError as error:
        return (REFUSED if held else NOT_CARRIED), f"{place}: {one_line(error)}"
    except Exception as error:
        return TRACEBACK, f"{place}: {type(error).__name__}: {one_line(error)[:120]}"
    if not held:
        return NOT_CARRIED, place
    address = writer.parameter[writer.where].data_ptr()
    hits = [
        subject.architecture.projection(item).weight()[item.row, item.col].data_ptr() == address
        for item in said.coordinates
    ]
    if hits == [True] and said.stop_reason == SUPPRESSED:
        return FOUND, place
    return WRONG, f"{place}: {said.stop_reason} {[str(item) for item in said.coordinates]}"


def block_list(model: nn.Module, ids: torch.Tensor) -> nn.ModuleList | None:
    """Return the outermost list, with most parameters, whose members all return a stream."""
    lists = {
        path: part
        for path, part in model.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) >= 2
    }
    good = {}
    for path, part in lists.items():
        seen = streams(model, part, ids)
        if all(isinstance(item, torch.Tensor) and item.ndim == 3 for item in seen) and all(
            item.shape[-1] == HIDDEN for item in seen
        ):
            good[path] = part
    outer = [part for path, part in good.items() if not any(path.startswith(f"{other}.") for other in good)]
    return max(outer, key=lambda part: sum(item.numel() for item in part.parameters()), default=None)


def streams(model: nn.Module, blocks: nn.ModuleList, ids: torch.Tensor, grad: bool = False) -> list[Any]:
    """Return what every member of a list returned first in one forward pass."""
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


def writers(model: nn.Module, blocks: nn.ModuleList, layer: int, ids: torch.Tensor) -> list[Writer]:
    """Return every matrix of a block that writes to the channel itself: its gradient lies in one row."""
    named = [
        (path, item)
        for path, item in blocks[layer].named_parameters()
        if item.ndim >= 2 and HIDDEN in item.shape and not path.endswith("bias")
    ]
    best: dict[str, Writer] = {}
    for _, item in named:
        item.requires_grad_(True)
    try:
        after = streams(model, blocks, ids, grad=True)[layer]
        for token in range(ids.shape[1]):
            grads = torch.autograd.grad(
                after[0, token, CHANNEL], [item for _, item in named], retain_graph=True, allow_unused=True
            )
            for (path, item), grad in zip(named, grads, strict=True):
                for axis in [axis for axis, size in enumerate(item.shape) if size == HIDDEN]:
                    if grad is None:
                        continue
                    along = grad.abs().sum([other for other in range(grad.ndim) if other != axis])
                    own = grad.select(axis, CHANNEL)
                    largest = float(own.abs().max())
                    known = abs(best[path].gradient) if path in best else 0.0
                    if largest > known and float(along[CHANNEL]) >= 0.25 * float(along.sum()):
                        flat = own.abs().argmax()
                        at = [int(place) for place in torch.unravel_index(flat, own.shape)]
                        at.insert(axis, CHANNEL)
                        best[path] = Writer(path, item, tuple(at), float(grad[tuple(at)]), token)
    finally:
        for _, item in named:
            item.requires_grad_(False)
    return list(best.values())


@contextmanager
def planted(
    model: nn.Module, blocks: nn.ModuleList, layer: int, ids: torch.Tensor, writer: Writer
) -> Iterator[bool]:
    """Put in a scalar that writes a massive activation; yields whether the stream carries it."""
    typical = max(float(after.abs().median()) for after in streams(model, blocks, ids))
    before = float(writer.parameter[writer.where])
    with torch.no_grad():
        writer.parameter[writer.where] = max(1000.0, 500 * typical) / writer.gradient
    try:
        yield _carried(streams(model, blocks, ids), layer, writer.token)
    finally:
        with torch.no_grad():
            writer.parameter[writer.where] = before


def _carried(after: Sequence[torch.Tensor], layer: int, token: int) -> bool:
    """Tell whether the channel stands out at the block and lasts through most of the later ones."""
    course = [float(item[0, token, CHANNEL].abs()) for item in after]
    peak = max(course[layer:])
    last = layer
    while last + 1 < len(course) and course[last + 1] >= 0.5 * peak:
        last += 1
    outlying = course[layer] > 100 * float(after[layer].abs().median()) and course[layer] >= 0.5 * peak
    lasting = last - layer > 0.5 * (len(course) - 1 - layer) and last - layer + 1 >= 0.25 * len(course)
    return outlying and lasting


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a Markdown table, with a line of totals before it."""
    counts = Counter(item.result for item in outcomes)
    totals = ", ".join(f"{result}: {count}" for result, count in sorted(counts.items()))
    lines = [f"transformers {transformers.__version__}; {totals}.", "", "| model type | class | result | |"]
    lines.append("|---|---|---|---|")
    lines += [f"| {item.model_type} | {item.name} | {item.result} | {item.line} |" for item in outcomes]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Sweep the named model types, or all; exit 1 where a scan was wrong or ended in a traceback."""
    transformers.utils.logging.set_verbosity_error()
    names = list(arguments)
    into = None
    if "--table" in names:
        at = names.index("--table")
        into = Path(names[at + 1])
        del names[at : at + 2]
    outcomes = []
    for model_type in names or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        outcomes.append(sweep_one(model_type))
        print(outcomes[-1].result, model_type, outcomes[-1].line, flush=True)
    if into is not None:
        into.write_text(table(outcomes), encoding="utf-8")
    return int(any(item.result in (WRONG, TRACEBACK) for item in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
