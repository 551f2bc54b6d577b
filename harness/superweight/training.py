"""Watch a model's super weights while it trains: read them every few steps, and warn or stop at the limits.

`watch` is for a loop of one's own, `SuperWeightCallback` for transformers' Trainer and what builds on it:

    watched = watch(model, ["1,41,23"])
    for step, batch in enumerate(batches):
        ...
        if watched.step(step).reasons:
            break

The scalars are read from the live parameters, and nothing is run for that. Of a LoRA module the merged
value is read. Under FSDP and DeepSpeed ZeRO-3 the rank that holds a scalar tells it to the others, so that
every rank must call `step`.
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
from transformers import Trainer, TrainerCallback

from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput
from superweight.model.live_scalars import Entry, plain_path, read_entries
from superweight.model.prompt_probe import Probe, probe

_log = logging.getLogger("superweight")
# As in `superweight.release.limits`: by how much of itself a scalar may differ, by which factor either way
# the activation, and which share of what the dtype holds it may take.
DRIFT, MAGNITUDE, HEAD_ROOM = 0.25, 1.5, 0.75
# By which factor the prompt's perplexity may rise: as the activation, and short of twice. A difference of
# losses spreads by a nat or so a token, so that over fewer tokens chance alone comes near to ln 1.5.
RISE, FEWEST_TOKENS = 1.5, 100
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
    ``prompt``, (rows, tokens) of ids; without a prompt nothing is run. ``before`` is what the prompt showed
    when the watch began. ``rise`` is the factor by which the perplexity of a prompt of at least
    `FEWEST_TOKENS` may rise, None for any.
    """

    model: nn.Module
    modules: Mapping[Coordinate, nn.Module]
    began: Mapping[Coordinate, float]
    every: int = 10
    run_every: int = 100
    prompt: torch.Tensor | None = None
    drift: float = DRIFT
    before: Probe | None = None
    autocast: torch.dtype | None = None
    rise: float | None = RISE
    readings: list[Reading] = field(default_factory=list)

    def values(self) -> dict[Coordinate, float]:
        """Read every scalar as the model computes with it now."""
        return _read(self.model, self.modules)

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
        now = self.probe()
        limit = torch.finfo(now.dtype).max
        figures |= {"superweight/activation": now.peak, "superweight/head_room": now.peak / limit}
        was = now if self.before is None else self.before
        ratio = now.peak / was.peak if was.peak else math.inf
        if not 1 / MAGNITUDE <= ratio <= MAGNITUDE:  # NaN is beyond both
            reasons.append(
                f"the super activation is {ratio:.3g} times what it was ({was.peak:.4g} to {now.peak:.4g})"
            )
        if not now.peak <= HEAD_ROOM * limit:
            name = str(now.dtype).removeprefix("torch.")
            reasons.append(
                f"the super activation {now.peak:.4g} takes {now.peak / limit:.0%} of what {name} holds"
            )
        figures["superweight/prompt_loss"] = now.loss
        # The model may be ruined with its super weights in place, and then only this tells.
        rose = now.loss - was.loss
        if self.rise is not None and self._predicted() >= FEWEST_TOKENS and not rose <= math.log(self.rise):
            reasons.append(
                f"the prompt's perplexity is {math.exp(min(rose, 700.0)):.3g} times what it was, at most "
                f"{self.rise:.3g}; lower the learning rate, or warm up for longer"
            )

    def _predicted(self) -> int:
        """Return how many tokens of the prompt are predicted: all but each row's first."""
        return 0 if self.prompt is None else self.prompt.shape[0] * (self.prompt.shape[1] - 1)

    def probe(self) -> Probe:
        """Run the prompt once, in evaluation mode and under the autocast of the training."""
        if self.prompt is None:
            raise BadInput("no prompt to run; give watch one")
        return _probe(self.model, self.modules, self.prompt, self.autocast)


def watch(
    model: nn.Module,
    super_weights: Iterable[Coordinate | str],
    *,
    every: int = 10,
    run_every: int = 100,
    prompt: torch.Tensor | None = None,
    drift: float = DRIFT,
    autocast: torch.dtype | None = None,
    rise: float | None = RISE,
) -> Watched:
    """Begin to watch a model's super weights; what they are now is what all is reckoned from.

    With ``prompt`` the model is run once now. ``autocast`` is the dtype in which the training computes,
    where the loop gives it to `torch.autocast`; transformers' Trainer does so in the model itself.

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
    if rise is not None and not rise > 1:
        raise BadInput(f"rise={rise}: give a factor above 1, by which the prompt's perplexity may rise")
    found = _projections(model)
    modules: dict[Coordinate, nn.Module] = {}
    for place in places:
        if (place.layer, place.expert) not in found:
            raise BadInput(
                f"coordinate {place}: the model has no output projection there that can be watched"
            )
        modules[place] = found[place.layer, place.expert]
    began = _read(model, modules)
    if zero := [place for place, value in began.items() if not value or not math.isfinite(value)]:
        raise BadInput(f"super weight {zero[0]} is {began[zero[0]]} before training; give the model's own")
    before = None if prompt is None else _probe(model, modules, prompt, autocast)
    return Watched(model, modules, began, every, run_every, prompt, drift, before, autocast, rise)


def _read(model: nn.Module, modules: Mapping[Coordinate, nn.Module]) -> dict[Coordinate, float]:
    return read_entries(model, {at: Entry(module, at.row, at.col) for at, module in modules.items()})


def _probe(
    model: nn.Module,
    modules: Mapping[Coordinate, nn.Module],
    prompt: torch.Tensor,
    autocast: torch.dtype | None,
) -> Probe:
    rows: dict[nn.Module, list[int]] = {}
    for place, module in modules.items():
        rows.setdefault(module, []).append(place.row)
    return probe(model, rows, prompt, autocast)


def _projections(model: nn.Module) -> dict[tuple[int, int | None], nn.Module]:
    found: dict[tuple[int, int | None], nn.Module] = {}
    for path, module in model.named_modules():
        name = plain_path(path)
        if match := _DENSE.fullmatch(name):
            found.setdefault((int(match[1]), None), module)
        elif match := _ROUTED.fullmatch(name):
            found.setdefault((int(match[1]), int(match[2])), module)
    return found


class SuperWeightCallback(TrainerCallback):
    """Watch the super weights in transformers' Trainer, and log them with its own loggers.

    ``super_weights`` are coordinates, as `superweight scan` finds them. Figures are logged as
    ``superweight/...``; what lies beyond a limit is a warning, and ends the training with ``stop``.
    ``prompt`` is a text, for which the Trainer must have a tokenizer; give one of a few hundred tokens that
    is not trained on, whose perplexity tells what the super weights do not.

    The Trainer gives a callback neither itself nor its loggers: `bind` does, and adds the callback.
    """

    def __init__(
        self,
        super_weights: Sequence[Coordinate | str],
        *,
        every: int = 10,
        run_every: int = 100,
        prompt: str | None = None,
        drift: float = DRIFT,
        rise: float | None = RISE,
        stop: bool = False,
    ) -> None:
        self._places, self._prompt, self._stop = super_weights, prompt, stop
        self._chosen: dict[str, Any] = {"every": every, "run_every": run_every, "drift": drift, "rise": rise}
        self.watched: Watched | None = None
        self.stopped_by: tuple[str, ...] = ()
        self._trainer: Any = None

    def bind(self, trainer: Trainer) -> SuperWeightCallback:
        """Take a Trainer's loggers, and add the callback where it was not given to the Trainer."""
        self._trainer = trainer
        if not any(one is self for one in trainer.callback_handler.callbacks):
            trainer.add_callback(self)
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **given: Any) -> None:
        ids = None
        if self._prompt is not None:
            tokenizer = given.get("processing_class") or given.get("tokenizer")
            if tokenizer is None:
                raise BadInput("a prompt needs the Trainer's processing_class, and it has none; give it one")
            ids = tokenizer(self._prompt, return_tensors="pt")["input_ids"].to(args.device)
        if self._trainer is None and args.report_to:
            _log.warning(
                "super weights are watched, and logged by none of %s: call bind(trainer)",
                ", ".join(args.report_to),
            )
        self.watched = watch(model, self._places, prompt=ids, **self._chosen)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> Any:
        if self.watched is None:
            return control
        reading = self.watched.step(state.global_step)
        if reading.figures and self._trainer is not None:
            self._logged(dict(reading.figures), control)
        for reason in reading.reasons:
            _log.warning("step %d: %s", reading.step, reason)
        if reading.reasons and self._stop:
            self.stopped_by = reading.reasons
            control.should_training_stop = True
        return control

    def _logged(self, figures: dict[str, float], control: Any) -> None:
        # Logging tells the Trainer that what was due is logged, and its own loss of this step is not yet.
        due = control.should_log
        # Not the log of a trainer built on it: TRL's adds, and empties, what it averages for its own.
        Trainer.log(self._trainer, figures)
        control.should_log = due
