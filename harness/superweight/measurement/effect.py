"""Say how much what was found carries: perplexity with it pruned, over perplexity as it is.

One batched look at a few windows, which is also the first look of the claims: the core, each of its
scalars alone, the companions with it, the gains, and controls of the same matrices and norms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from superweight.core.readable import readable, times
from superweight.core.statistics import LEVEL, LOOKS, Interval, jackknife
from superweight.detection.scan import Scan
from superweight.measurement.conditions import (
    CHANNEL_GAINS,
    COMPANIONS,
    GAINS,
    INTACT,
    OTHER_GAINS,
    PRUNED,
    RANDOM,
    SAME_MATRIX,
    Condition,
    alone,
    controls,
    parts_of,
    singled_out,
)
from superweight.measurement.corpus import Windows
from superweight.measurement.evaluate import Measurement, measure
from superweight.model.subject import Subject

# The weakest prune that a replication of Table 2 calls catastrophic multiplies perplexity by 16, the
# strongest that it does not by 1.6: what lies between 2 and 10 is neither.
CARRIES, LITTLE = 10.0, 2.0

# The look that says what carries: as many windows as the first look of every claim.
EFFECT_WINDOWS = LOOKS[0]

# The controls that are nearest to what was found: others of its own matrices and norms.
CONTROLS = (SAME_MATRIX, RANDOM, OTHER_GAINS)


@dataclass(frozen=True)
class Ratio:
    """Perplexity after over before, with its interval; ``pruned`` is how many scalars and gains were."""

    value: float
    interval: Interval
    pruned: int

    @property
    def words(self) -> str:
        """What this says of the pruned: that they carry the model, a part of it, or little."""
        if self.interval.low >= CARRIES:
            said = "carries the model"
        elif self.value < LITTLE and self.interval.high < CARRIES:
            said = "carries little"
        else:
            said = "carries part of the model"
        return f"{said} ({times(self.value)})"

    def __str__(self) -> str:
        low, high = (times(end) for end in (self.interval.low, self.interval.high))
        return f"{times(self.value)} [{low}, {high}]"


@dataclass(frozen=True)
class Effect:
    """What each condition does to perplexity, by its name; ``windows`` of ``corpus`` were read.

    ``singled_out`` are the places of the scalars that were also pruned alone: not all of them where
    there are many.
    """

    windows: int
    corpus: str
    perplexity: float
    ratios: Mapping[str, Ratio]
    singled_out: tuple[int, ...]

    @property
    def whole(self) -> Ratio | None:
        """What pruning the core does or, where no scalar is found, the gains."""
        return self.ratios.get(PRUNED, self.ratios.get(GAINS))

    def alone(self, index: int) -> Ratio | None:
        """Return what the scalar at this place of the core does alone; None where that was not measured."""
        single = self.ratios.get(alone(index))
        return self.ratios[PRUNED] if single is None and self.ratios[PRUNED].pruned == 1 else single

    @property
    def beside(self) -> dict[str, Ratio]:
        """The conditions other than the core and its single scalars, the controls last."""
        names = (COMPANIONS, GAINS, CHANNEL_GAINS, *CONTROLS)
        return {name: self.ratios[name] for name in names if name in self.ratios}


def effect_conditions(subject: Subject, found: Scan) -> list[Condition]:
    """Return the conditions of the look: the parts of what was found, and their controls."""
    treated = parts_of(found)
    if not treated:
        return []
    return treated + [item for item in controls(subject, found) if item.name in CONTROLS]


def measure_effect(subject: Subject, found: Scan, windows: Windows) -> Effect | None:
    """Measure the look on the first of the shuffled windows; None where there is nothing to prune."""
    conditions = effect_conditions(subject, found)
    if not conditions:
        return None
    few = Windows(windows.shuffled().ids[:EFFECT_WINDOWS], windows.corpus)
    return effect_of(found, measure(subject, few, conditions, losses_only=True), windows.corpus, conditions)


def effect_of(
    found: Scan,
    measurements: Mapping[str, Measurement],
    corpus: str,
    conditions: Iterable[Condition],
) -> Effect:
    """Return the effect that measurements of the conditions, and of the intact model, show."""
    intact = measurements[INTACT]
    ratios = {
        condition.name: _ratio(measured, measured.reference or intact, condition)
        for condition in conditions
        if (measured := measurements.get(condition.name)) is not None
    }
    return Effect(len(intact.nll), corpus, intact.perplexity, ratios, tuple(singled_out(found)))


def _ratio(measured: Measurement, intact: Measurement, condition: Condition) -> Ratio:
    rise = (measured.nll - intact.nll[: len(measured.nll)]).mean(axis=1)
    logs = jackknife(rise, level=LEVEL)
    # A ratio beyond what a float holds is one nobody reads.
    low, value, high = np.exp(np.clip([logs.low, rise.mean(), logs.high], -700, 700)).tolist()
    return Ratio(value, Interval(low, high), len(condition.scales) + len(condition.gains))


def as_dict(effect: Effect) -> dict[str, object]:
    """Return the ``effect`` of ``superweight scan --json``."""
    whole = effect.whole
    return {
        "windows": effect.windows,
        "corpus": effect.corpus,
        "perplexity": effect.perplexity,
        "verdict": None if whole is None else whole.words,
        "conditions": [
            {
                "condition": name,
                "pruned": ratio.pruned,
                "control": name in CONTROLS,
                "perplexity_ratio": ratio.value,
                "interval": [ratio.interval.low, ratio.interval.high],
            }
            for name, ratio in effect.ratios.items()
        ],
    }


def summary(found: Scan, effect: Effect | None) -> str:
    """Return where the activation is, how large, what makes it, and how much that carries: one sentence."""
    item = found.strongest
    if item is None:
        return f"{found.stop_reason}: no super activation, so nothing to prune"
    where = (
        f"super activation {readable(item.magnitude)} on channel {item.channel} "
        f"(token {item.token}, blocks {item.onset} to {item.last})"
    )
    made = made_of(found)
    if effect is None or effect.whole is None:
        return f"{where}: {made}"
    return f"{where}: {made}; {effect.whole.words}"


def made_of(found: Scan) -> str:
    """Return what makes the activation, in words: how many scalars of which neurons and blocks, and gains."""
    places = found.coordinates
    neurons = {(place.layer, place.expert, place.col) for place in places}
    said = []
    if places:
        scalars = _count(len(places), "scalar")
        of = "" if len(neurons) == len(places) else f" of {_count(len(neurons), 'neuron')}"
        said.append(f"{scalars}{of} {blocks(sorted({place.layer for place in places}))}")
    if making := found.making_gains:
        layers = sorted({gain.coordinate.layer for gain in making})
        said.append(f"{_count(len(making), 'gain')} behind the MLP {blocks(layers)}")
    if not said:
        return "no single scalar makes it"
    chain = " in a chain" if len({place.layer for place in places}) > 1 else ""
    return f"made of {' and '.join(said)}{chain}"


def blocks(layers: list[int]) -> str:
    """Return a list of blocks in words, runs of them shortened."""
    if len(layers) == 1:
        return f"in block {layers[0]}"
    if layers == list(range(layers[0], layers[-1] + 1)):
        return f"in blocks {layers[0]} to {layers[-1]}"
    return f"in blocks {', '.join(map(str, layers))}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
