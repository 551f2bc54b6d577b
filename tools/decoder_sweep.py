"""Plant a super weight in every decoder that transformers registers, and ask a scan for it.

    python -m tools.decoder_sweep [KEY ...] [--classes causal|variants|image-text]
        [--page] [--difference FILE]

Every class is built tiny and random. A scalar is planted in every matrix of an early block that writes
to the residual stream outside its mixers (`tools.gradient_planting`); nothing of the package says where.
``--page`` puts the tables into docs/architectures.md; ``--difference`` writes what is not as it stands there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperModel

from superweight.checkpoints.registry import resolve
from superweight.core import markdown
from superweight.core.errors import HarnessError, one_line
from superweight.detection.scan import SUPPRESSED, scan
from superweight.measurement.corpus import default_prompt
from superweight.model.architecture import inspect_architecture
from superweight.model.edits import Prune, edited
from superweight.model.loading import load
from superweight.model.subject import Subject
from tools.gradient_planting import (
    Writer,
    block_list,
    kept,
    linear_writers,
    planted,
    runnable_on_text,
    streams,
    writers,
)
from tools.sweep_page import (
    FOUND,
    NOT_CARRIED,
    NOT_RUNNABLE,
    PAGE,
    REFUSED,
    TRACEBACK,
    WRONG,
    Outcome,
    difference,
    known,
    rewritten,
    totals,
    updated,
)
from tools.tiny_configs import OVERRIDES, VARIANTS, tiny_config

REPOSITORY = Path(__file__).resolve().parents[1]
FIXTURE = REPOSITORY / "fixtures/checkpoints/tiny-planted"
CAUSAL, VARIANT, IMAGE_TEXT = "causal", "variants", "image-text"


@dataclass(frozen=True)
class Job:
    """One model to build: a model type as the tiny table makes it, or as a family ships it."""

    key: str
    model_type: str
    name: str
    overrides: Mapping[str, Any] | None
    image_text: bool = False


def jobs(classes: str) -> dict[str, Job]:
    """Return the models of one of the three tables, by key."""
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if classes == VARIANT:
        return {key: Job(key, kind, causal[kind], own) for key, (kind, own) in VARIANTS.items()}
    names = causal if classes == CAUSAL else MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return {
        kind: Job(kind, kind, _one(names[kind]), OVERRIDES.get(kind), classes == IMAGE_TEXT)
        for kind in sorted(names)
    }


def _one(name: str | Sequence[str]) -> str:
    return name if isinstance(name, str) else name[0]


def sweep_one(key: str, classes: str = CAUSAL) -> Outcome:
    """Build one class, plant in it, and return what the scan says."""
    job = jobs(classes)[key]

    def outcome(result: str, line: str) -> Outcome:
        return Outcome(key, job.name, result, markdown.cell(line))

    template = load(resolve(str(FIXTURE)), device="cpu")
    ids = torch.tensor([template.encode(default_prompt())])
    try:
        model = build(job)
        inner = runnable_on_text(model, ids)
    except Exception as error:
        return outcome(NOT_RUNNABLE, f"{type(error).__name__}: {one_line(error)[:120]}")
    try:
        subject = replace(template, name=job.name, model=model, architecture=inspect_architecture(model))
        twin = scan(subject, default_prompt())
    except HarnessError as error:
        return outcome(REFUSED, one_line(error))
    except Exception as error:
        return outcome(TRACEBACK, f"{type(error).__name__}: {one_line(error)[:120]}")
    if twin.coordinates:
        return outcome(
            WRONG, f"the unplanted twin is said to have {[str(item) for item in twin.coordinates]}"
        )
    return outcome(*_planted_everywhere(subject, inner, ids))


def build(job: Job) -> transformers.PreTrainedModel:
    """Return a tiny random model; what would start at zero is drawn at random, too."""
    torch.manual_seed(11)
    auto = transformers.AutoModelForImageTextToText if job.image_text else transformers.AutoModelForCausalLM
    overrides = dict(job.overrides or {})
    layer_scalar = overrides.pop("__layer_scalar__", None)
    with _empty_timm_towers():
        model = auto.from_config(tiny_config(job.model_type, overrides)).eval().float()
    for part in model.modules():
        config = getattr(part, "config", None)
        if getattr(config, "_experts_implementation", None) is not None:
            config._experts_implementation = "eager"
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2 and float(parameter.abs().max()) == 0:
                parameter.normal_(0, 0.05)
            parameter.requires_grad_(False)
        for path, buffer in model.named_buffers():
            if layer_scalar is not None and path.endswith("layer_scalar"):
                buffer.fill_(layer_scalar)
    return model  # type: ignore[no-any-return]  # the auto classes are untyped


@contextmanager
def _empty_timm_towers() -> Iterator[None]:
    """Build image towers of the timm library without a layer: only text is run, and timm is not needed."""
    init = TimmWrapperModel.__init__
    TimmWrapperModel.__init__ = transformers.PreTrainedModel.__init__
    try:
        yield
    finally:
        TimmWrapperModel.__init__ = init


def _planted_everywhere(subject: Subject, model: nn.Module, ids: torch.Tensor) -> tuple[str, str]:
    blocks = block_list(model, ids)
    if blocks is None:
        return NOT_RUNNABLE, "no list of blocks runs on a stream of (sequences, tokens, hidden)"
    ran, left = streams(model, blocks, ids), kept(model, blocks, ids)
    kinds: dict[Any, int] = {}
    for layer in [*range(1, max(2, len(blocks) - 2)), 0]:
        shapes = tuple((path, tuple(item.shape)) for path, item in blocks[layer].named_parameters())
        if layer in ran:
            kinds.setdefault((type(blocks[layer]), shapes), layer)
    results: list[tuple[str, str]] = []
    for layer in sorted(kinds.values()):
        try:
            direct = writers(model, blocks, layer, ids)
        except RuntimeError:  # reversible blocks compute without a gradient
            direct = linear_writers(model, blocks, layer, ids)
        for writer in direct:
            if not writer.is_mixer:
                with planted(model, blocks, layer, ids, writer, direct, left) as held:
                    results.append(_asked(subject, model, ids, blocks, layer, writer, held))
    for result in (WRONG, TRACEBACK, REFUSED):
        if lines := [line for own, line in results if own == result]:
            return result, "; ".join(lines)
    if lines := [line for own, line in results if own == FOUND]:
        return FOUND, "; ".join(lines)
    return NOT_CARRIED, "the stream carries no planted activation"


def _asked(
    subject: Subject,
    model: nn.Module,
    ids: torch.Tensor,
    blocks: nn.ModuleList,
    layer: int,
    writer: Writer,
    held: str,
) -> tuple[str, str]:
    place = f"{layer}:{writer.path}" + (f" {held}" if held.startswith("behind") else "")
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
    if hits != [True] or said.stop_reason != SUPPRESSED:
        return WRONG, f"{place}: {said.stop_reason} {[str(item) for item in said.coordinates]}"
    fault = _edit_fault(subject, model, ids, blocks, writer, Prune(said.coordinates[0]))
    return (WRONG, f"{place}: {fault}") if fault else (FOUND, place)


def _edit_fault(
    subject: Subject, model: nn.Module, ids: torch.Tensor, blocks: nn.ModuleList, writer: Writer, prune: Any
) -> str:
    """Return what is wrong with pruning the scalar, by weight or by hook, and undoing it; or nothing."""
    before = [item.clone() for item in subject.model.state_dict().values()]
    course = streams(model, blocks, ids)
    with edited(subject, [prune]):
        zero = float(writer.parameter[writer.where]) == 0
        written = streams(model, blocks, ids)
    with edited(subject, [prune], by_hook=True):
        hooked = streams(model, blocks, ids)
    scale = max(1.0, *(float(item.abs().max()) for item in course.values()))
    apart = max(float((written[at] - hooked[at]).abs().max()) for at in course) / scale
    if not zero or all(torch.equal(written[at], course[at]) for at in course):
        return "the prune does not reach the scalar"
    if any(not torch.equal(a, b) for a, b in zip(before, subject.model.state_dict().values(), strict=True)):
        return "the prune is not undone"
    return f"the prune by hook lies {apart:g} beside the written one" if apart > 1e-3 else ""


def main(arguments: Sequence[str]) -> int:
    """Sweep the named models, or all; exit 1 where a scan was wrong or ended in a traceback."""
    transformers.utils.logging.set_verbosity_error()
    parser = argparse.ArgumentParser()
    parser.add_argument("keys", nargs="*")
    parser.add_argument("--classes", choices=(CAUSAL, VARIANT, IMAGE_TEXT), action="append")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--difference", type=Path)
    said = parser.parse_args(arguments)
    began, everything = time.monotonic(), []
    changed: list[str] = []
    for classes in said.classes or (CAUSAL, VARIANT, IMAGE_TEXT):
        outcomes = [_reported(key, classes) for key in said.keys or jobs(classes)]
        print(totals(outcomes), flush=True)
        before = known(PAGE.read_text(encoding="utf-8"), classes)
        changed += difference(before, outcomes)
        if said.page:
            rows = updated(before, outcomes) if said.keys else outcomes
            PAGE.write_text(rewritten(PAGE, classes, rows), encoding="utf-8")
        everything += outcomes
    print(f"{time.monotonic() - began:.0f} s")
    if said.difference is not None:
        said.difference.write_text("\n".join(changed), encoding="utf-8")
    return int(any(item.result in (WRONG, TRACEBACK) for item in everything))


def _reported(key: str, classes: str) -> Outcome:
    outcome = sweep_one(key, classes)
    print(outcome.result, key, outcome.line, flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
