"""Watch a model's super weights while it trains: read them every few steps, and warn or stop at the limits.

`watch` is for a loop of one's own, `SuperWeightCallback` for transformers' Trainer and what builds on it:

    watched = watch(model, ["1,41,23"])
    for step, batch in enumerate(batches):
        ...
        if watched.step(step).reasons:
            break

The scalars are read from the live parameters, and nothing is run for that. Of a LoRA module the merged
value is read. Under FSDP2 the rank that holds a scalar's row tells it to the others.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput

_log = logging.getLogger("superweight")
# As in `superweight.release.limits`: by how much of itself a scalar may differ, by which factor either way
# the activation, and which share of what the dtype holds it may take.
DRIFT, MAGNITUDE, HEAD_ROOM = 0.25, 1.5, 0.75
_WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")
_DENSE = re.compile(
    r"(?:^|.*\.)(?:layers|h|blocks)\.(\d+)\.(?:mlp|feed_forward|ffn)\.(?:down_proj|c_proj|fc2|w2)"
)
_ROUTED = re.compile(r"(?:^|.*\.)layers\.(\d+)\.(?:\w+)\.experts\.(\d+)\.(?:down_proj|w2)")


@dataclass(frozen=True)
class Reading:
    """What one step showed: numbers by the name that a logger is given, and what is beyond a limit."""

    step: int
    figures: Mapping[str, float]
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Watched:
    """The super weights of one model in training, and what they were when it began.

    ``every`` and ``run_every`` are steps between two readings, and between two forward passes on
    ``prompt``, (1, tokens) of ids; without a prompt nothing is run.
    """

    model: nn.Module
    modules: Mapping[Coordinate, nn.Module]
    began: Mapping[Coordinate, float]
    every: int = 10
    run_every: int = 100
    prompt: torch.Tensor | None = None
    drift: float = DRIFT
    readings: list[Reading] = field(default_factory=list)

    def values(self) -> dict[Coordinate, float]:
        """Read every scalar as the model computes with it now."""
        return {place: merged(self.modules[place], place.row, place.col) for place in self.modules}

    def step(self, number: int) -> Reading:
        """Read what is due at this step; a reading without figures where nothing is."""
        figures: dict[str, float] = {}
        reasons: list[str] = []
        if number % self.every == 0:
            for place, now in self.values().items():
                self._drift(place, now, figures, reasons)
        if self.prompt is not None and number % self.run_every == 0:
            self._activation(figures, reasons)
        reading = Reading(number, figures, tuple(reasons))
        if figures:
            self.readings.append(reading)
        return reading

    def _drift(self, place: Coordinate, now: float, figures: dict[str, float], reasons: list[str]) -> None:
        was, name = self.began[place], ",".join(map(str, place.indices))
        apart = abs(now - was) / abs(was) if math.isfinite(now) else math.inf
        figures |= {f"superweight/{name}/value": now, f"superweight/{name}/drift": apart}
        if apart > self.drift:
            reasons.append(
                f"super weight {place} went from {was:.6g} to {now:.6g} ({apart:.1%} off, at most "
                f"{self.drift:.0%}); lower the learning rate, or leave it out of weight decay"
            )

    def _activation(self, figures: dict[str, float], reasons: list[str]) -> None:
        peak, dtype = self.peak()
        limit = torch.finfo(dtype).max
        figures |= {"superweight/activation": peak, "superweight/head_room": peak / limit}
        name = "superweight/activation"
        first = next((item.figures[name] for item in self.readings if name in item.figures), peak)
        ratio = peak / first if first else math.inf
        if not 1 / MAGNITUDE <= ratio <= MAGNITUDE:  # NaN is beyond both
            reasons.append(
                f"the super activation is {ratio:.3g} times what it was ({first:.4g} to {peak:.4g})"
            )
        if not peak <= HEAD_ROOM * limit:
            name = str(dtype).removeprefix("torch.")
            reasons.append(f"the super activation {peak:.4g} takes {peak / limit:.0%} of what {name} holds")

    def peak(self) -> tuple[float, torch.dtype]:
        """Run the prompt once, and return the largest super activation and the dtype it is computed in."""
        seen: list[torch.Tensor] = []
        rows: dict[nn.Module, list[int]] = {}
        for place, module in self.modules.items():
            rows.setdefault(module, []).append(place.row)

        def look(module: nn.Module, given: Any, output: torch.Tensor) -> None:
            seen.append(output.detach()[..., rows[module]])

        hooks = [module.register_forward_hook(look) for module in rows]
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                self.model(input_ids=self.prompt, use_cache=False)
        finally:
            self.model.train(training)
            for hook in hooks:
                hook.remove()
        return max(float(part.abs().max()) for part in seen), seen[0].dtype


def watch(
    model: nn.Module,
    super_weights: Iterable[Coordinate | str],
    *,
    every: int = 10,
    run_every: int = 100,
    prompt: torch.Tensor | None = None,
    drift: float = DRIFT,
) -> Watched:
    """Begin to watch a model's super weights; what they are now is what drift is reckoned from.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> shape = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    >>> watched = watch(LlamaForCausalLM(LlamaConfig(vocab_size=9, **shape)), ["1,3,5"])
    >>> watched.step(0).figures["superweight/1,3,5/drift"]
    0.0

    Raises `BadInput` for a coordinate that the model has not, or that is zero.
    """
    places = [place if isinstance(place, Coordinate) else Coordinate.parse(place) for place in super_weights]
    if not places:
        raise BadInput("no super weights to watch; give their coordinates, as 'superweight scan' finds them")
    found = _projections(model)
    modules = {}
    for place in places:
        if (place.layer, place.expert) not in found:
            raise BadInput(
                f"coordinate {place}: the model has no output projection there that can be watched"
            )
        modules[place] = found[place.layer, place.expert]
    began = {place: merged(modules[place], place.row, place.col) for place in places}
    if zero := [place for place, value in began.items() if not value or not math.isfinite(value)]:
        raise BadInput(f"super weight {zero[0]} is {began[zero[0]]} before training; give the model's own")
    return Watched(model, modules, began, every, run_every, prompt, drift)


def _projections(model: nn.Module) -> dict[tuple[int, int | None], nn.Module]:
    found: dict[tuple[int, int | None], nn.Module] = {}
    for path, module in model.named_modules():
        name = path
        for wrapper in _WRAPPERS:
            name = name.replace(wrapper, "")
        if match := _DENSE.fullmatch(name):
            found.setdefault((int(match[1]), None), module)
        elif match := _ROUTED.fullmatch(name):
            found.setdefault((int(match[1]), int(match[2])), module)
    return found


def merged(module: nn.Module, row: int, col: int) -> float:
    """Return W[row, col] of a linear module, with what its active LoRA adapters add.

    Raises `BadInput` for an index outside the matrix.
    """
    adapted: Any = module
    inner: Any = adapted.get_base_layer() if hasattr(module, "get_base_layer") else module
    weight: torch.Tensor = inner.weight
    transposed = type(inner).__name__ == "Conv1D"
    value = _number(weight, (col, row) if transposed else (row, col))
    if inner is module or getattr(module, "merged", False):
        return value
    for name in adapted.active_adapters:
        if name in adapted.lora_A:
            down, up = adapted.lora_A[name].weight.detach(), adapted.lora_B[name].weight.detach()
            # Rank numbers each: nothing of the size of the matrix is made.
            value += float(adapted.scaling[name] * (up[row].float() @ down[:, col].float()))
    return value


def _number(weight: torch.Tensor, index: tuple[int, int]) -> float:
    if len(weight.shape) != 2 or any(
        not 0 <= at < length for at, length in zip(index, weight.shape, strict=True)
    ):
        raise BadInput(f"index {list(index)} lies outside a weight of shape {list(weight.shape)}")
    with torch.no_grad():
        if hasattr(weight, "to_local"):
            return _of_ranks(weight, index)
        return float(weight[index])


def _of_ranks(weight: Any, index: tuple[int, int]) -> float:
    """Return a number of a DTensor: one rank holds it, and all are told."""
    import torch.distributed as dist
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(weight.shape, weight.device_mesh, weight.placements)
    local = tuple(at - begin for at, begin in zip(index, offset, strict=True))
    here = all(0 <= at < length for at, length in zip(local, shape, strict=True))
    # The value, and how many hold it: replicas tell the same.
    told = torch.zeros(2, dtype=torch.float64, device=weight.to_local().device)
    if here:
        told[0], told[1] = float(weight.to_local()[local]), 1.0
    dist.all_reduce(told)
    return float(told[0] / told[1])


class SuperWeightCallback(TrainerCallback):
    """Watch the super weights in transformers' Trainer, and log them with its own loggers.

    ``super_weights`` are coordinates, as `superweight scan` finds them. Figures are logged as
    ``superweight/...``; what lies beyond a limit is a warning, and ends the training with ``stop``.
    ``prompt`` is a text, for which the Trainer must have a tokenizer.
    """

    def __init__(
        self,
        super_weights: Sequence[Coordinate | str],
        *,
        every: int = 10,
        run_every: int = 100,
        prompt: str | None = None,
        drift: float = DRIFT,
        stop: bool = False,
    ) -> None:
        self._places, self._every, self._run_every = super_weights, every, run_every
        self._prompt, self._drift, self._stop = prompt, drift, stop
        self.watched: Watched | None = None
        self.stopped_by: tuple[str, ...] = ()
        self._log: Any = None

    def bind(self, trainer: Any) -> SuperWeightCallback:
        """Log through a Trainer's ``log``, so that every logger it has gets the figures."""
        self._log = trainer.log
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **given: Any) -> None:
        ids = None
        if self._prompt is not None:
            tokenizer = given.get("processing_class") or given.get("tokenizer")
            if tokenizer is None:
                raise BadInput("a prompt needs the Trainer's processing_class, and it has none; give it one")
            ids = tokenizer(self._prompt, return_tensors="pt")["input_ids"].to(args.device)
        self.watched = watch(
            model, self._places, every=self._every, run_every=self._run_every, prompt=ids, drift=self._drift
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> Any:
        if self.watched is None:
            return control
        reading = self.watched.step(state.global_step)
        if reading.figures and self._log is not None:
            self._log(dict(reading.figures))
        for reason in reading.reasons:
            _log.warning("step %d: %s", reading.step, reason)
        if reading.reasons and self._stop:
            self.stopped_by = reading.reasons
            control.should_training_stop = True
        return control
