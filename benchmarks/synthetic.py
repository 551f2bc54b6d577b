"""Synthetic decoders with known answers: blocks of random matrices into which scalars and gains are planted.

Nothing of the harness decides what is planted or what is true of it; only its `Trace` is filled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from superweight.core.coordinates import Coordinate, GainCoordinate
from superweight.detection.trace import NormGains, Trace, Write

HIDDEN, INTERMEDIATE, TOKENS, EXPERTS = 96, 128, 7, 4
NORM = "post_norm"

Array = NDArray[np.float32]
Place = Coordinate | GainCoordinate


@dataclass(frozen=True)
class Plant:
    """A neuron that is active at one token and the scalars that it writes with, by channel: products."""

    layer: int
    token: int
    col: int
    products: Mapping[int, float]
    expert: int | None = None


@dataclass
class Decoder:
    """Blocks with what enters their output projections, the matrices, and norms behind them.

    ``inputs``: (blocks, tokens, intermediate). ``weights``: (blocks, hidden, intermediate), and by expert
    where there are some. ``others``: what the rest of each block adds, (blocks, tokens, hidden).
    """

    kind: str
    start: Array
    inputs: Array
    weights: Array
    others: Array
    gains: dict[int, Array] = field(default_factory=dict)
    # A layer scale multiplies; a norm also brings the write to size one first.
    normed: bool = True
    routed: bool = False
    factors: Array | None = None
    truth: set[Place] = field(default_factory=set)

    def pruned(self, places: Iterable[Coordinate]) -> Decoder:
        weights = self.weights.copy()
        for place in places:
            weights[(place.layer, place.row, place.col) if not self.routed else self._at(place)] = 0
        return Decoder(
            self.kind,
            self.start,
            self.inputs,
            weights,
            self.others,
            self.gains,
            self.normed,
            self.routed,
            self.factors,
            self.truth,
        )

    def _at(self, place: Coordinate) -> tuple[int, int, int, int]:
        return place.layer, place.expert or 0, place.row, place.col

    def row(self, layer: int, channel: int, expert: int | None = None) -> Array:
        row: Array = (self.weights[layer, expert] if self.routed else self.weights[layer])[channel]
        return row

    def trace(self) -> Trace:
        """Return what one pass over the decoder leaves behind."""
        stream, writes, arrived = [self.start], [], []
        every = np.arange(TOKENS)
        for layer, inputs in enumerate(self.inputs):
            parts = []
            total = np.zeros((TOKENS, HIDDEN), np.float32)
            for expert in range(EXPERTS) if self.routed else [None]:
                factors = (
                    np.ones(TOKENS, np.float32)
                    if self.factors is None
                    else self.factors[layer][:, expert or 0]
                )
                own = every[factors > 0]
                if not len(own):
                    continue
                matrix = self.weights[layer] if expert is None else self.weights[layer, expert]
                outputs = (inputs[own] @ matrix.T).astype(np.float32)
                total[own] += factors[own, None] * outputs
                parts.append(Write(expert, own, inputs[own], outputs, factors[own]))
            gain = self.gains.get(layer)
            if gain is not None:
                size = np.sqrt((total**2).mean(axis=1, keepdims=True)) if self.normed else 1.0
                total = (total / size * gain).astype(np.float32)
            writes.append(tuple(parts))
            arrived.append(total)
            stream.append(stream[-1] + total + self.others[layer])
        norms = tuple(
            NormGains(NORM, self.gains[layer]) if layer in self.gains else None
            for layer in range(len(self.inputs))
        )
        return Trace(tuple(writes), tuple(arrived), np.stack(stream), self, norms=norms)


class Maker:
    """Makes decoders of one kind after another from one seed."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)

    def decoder(self, kind: str, *, heavy: bool = False, routed: bool = False) -> Decoder:
        """Return an ordinary decoder: 10 to 28 blocks, a stream whose ordinary channels are about one."""
        blocks = int(self.draw.integers(10, 29))
        noise = self._heavy if heavy else self.draw.standard_normal
        shape = (blocks, EXPERTS, HIDDEN, INTERMEDIATE) if routed else (blocks, HIDDEN, INTERMEDIATE)
        factors = None
        if routed:
            factors = np.zeros((blocks, TOKENS, EXPERTS), np.float32)
            for layer, token in np.ndindex(blocks, TOKENS):
                first, second = self.draw.choice(EXPERTS, 2, replace=False)
                share = self.draw.uniform(0.5, 0.9)
                factors[layer, token, first], factors[layer, token, second] = share, 1 - share
        return Decoder(
            kind,
            noise((TOKENS, HIDDEN)).astype(np.float32),
            noise((blocks, TOKENS, INTERMEDIATE)).astype(np.float32),
            (0.02 * noise(shape)).astype(np.float32),
            (0.2 * noise((blocks, TOKENS, HIDDEN))).astype(np.float32),
            routed=routed,
            factors=factors,
        )

    def _heavy(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return self.draw.standard_t(3, shape)

    def plant(self, decoder: Decoder, plant: Plant) -> None:
        """Put the neuron in: its input is large, and its scalars give the products."""
        active = float(self.draw.uniform(60, 400) * self.draw.choice([-1, 1]))
        factor = 1.0
        if decoder.factors is not None:
            factor = float(decoder.factors[plant.layer, plant.token, plant.expert or 0])
        decoder.inputs[plant.layer, :, plant.col] *= 0.01  # a gated neuron: silent elsewhere
        decoder.inputs[plant.layer, plant.token, plant.col] = active
        for matrix in decoder.weights[plant.layer] if decoder.routed else [decoder.weights[plant.layer]]:
            matrix[:, plant.col] *= 0.02  # its ordinary scalars write next to nothing
        own = (
            decoder.weights[plant.layer, plant.expert or 0]
            if decoder.routed
            else decoder.weights[plant.layer]
        )
        for row, product in plant.products.items():
            own[row, plant.col] = product / (active * factor)

    def early(self, decoder: Decoder, before: float = 0.35) -> int:
        return int(self.draw.integers(0, max(1, int(before * len(decoder.inputs)))))

    def size(self) -> float:
        """Return a signed magnitude, 300 to 20,000: 150 medians of the stream and more."""
        return float(np.exp(self.draw.uniform(np.log(300), np.log(20_000))) * self.draw.choice([-1, 1]))

    def helper(self, decoder: Decoder, layer: int, token: int, row: int, size: float) -> None:
        """Plant a neuron beside those that make an activation: 2 to 4 % of it is no answer."""
        self.plant(decoder, Plant(layer, token, self.cols(1)[0], {row: size * self.draw.uniform(0.02, 0.04)}))

    def channels(self, count: int) -> list[int]:
        return [int(row) for row in self.draw.choice(HIDDEN, count, replace=False)]

    def cols(self, count: int) -> list[int]:
        return [int(col) for col in self.draw.choice(INTERMEDIATE, count, replace=False)]

    def token(self) -> int:
        return int(self.draw.choice([0, 0, 0, *range(1, TOKENS)]))

    def parts(self, count: int, least: float) -> NDArray[np.float64]:
        """Return shares that add up to one, none below ``least``."""
        spare = 1 - count * least
        drawn: NDArray[np.float64] = least + spare * self.draw.dirichlet(np.ones(count))
        return drawn

    # ------------------------------------------------------------------ the kinds

    def one(self) -> Decoder:
        decoder = self.decoder("one scalar")
        layer, (row,), (col,), token = self.early(decoder), self.channels(1), self.cols(1), self.token()
        self.plant(decoder, Plant(layer, token, col, {row: self.size()}))
        for other in range(TOKENS):  # the neuron may wake at other tokens, less so
            if other != token and self.draw.random() < 0.3:
                decoder.inputs[layer, other, col] = decoder.inputs[layer, token, col] * self.draw.uniform(
                    0.1, 0.9
                )
        decoder.truth = {Coordinate(layer, row, col)}
        return decoder

    def several(self) -> Decoder:
        decoder = self.decoder("several in one block")
        layer, (row,), size, token = self.early(decoder), self.channels(1), self.size(), self.token()
        count = int(self.draw.integers(2, 5))
        self.helper(decoder, layer, token, row, size)
        for col, part in zip(self.cols(count), self.parts(count, 0.13), strict=True):
            self.plant(decoder, Plant(layer, token, col, {row: part * size}))
            decoder.truth.add(Coordinate(layer, row, col))
        return decoder

    def chain(self) -> Decoder:
        decoder = self.decoder("a chain over blocks")
        count = int(self.draw.integers(2, 8))
        first, (row,), size, token = self.early(decoder, 0.25), self.channels(1), self.size(), self.token()
        self.helper(decoder, first + count, token, row, size)
        for step, (col, part) in enumerate(zip(self.cols(count), self._even(count), strict=True)):
            self.plant(decoder, Plant(first + step, token, col, {row: part * size}))
            decoder.truth.add(Coordinate(first + step, row, col))
        return decoder

    def _even(self, count: int) -> NDArray[np.float64]:
        drawn = self.draw.uniform(0.85, 1.15, count)
        parts: NDArray[np.float64] = drawn / drawn.sum()
        return parts

    def lesser_channel(self) -> Decoder:
        decoder = self.decoder("a second channel at 15 to 35 %")
        layer, (row, other), size, token = self.early(decoder), self.channels(2), self.size(), self.token()
        lesser = self.draw.uniform(0.15, 0.35)
        for col, part in zip(self.cols(2), self.parts(2, 0.3), strict=True):
            self.plant(decoder, Plant(layer, token, col, {row: part * size, other: part * lesser * size}))
            decoder.truth.add(Coordinate(layer, row, col))
        return decoder

    def equal_channels(self) -> Decoder:
        decoder = self.decoder("channels at 55 to 100 %")
        layer, rows, size, token = self.early(decoder), self.channels(3), self.size(), self.token()
        (col,) = self.cols(1)
        shares = [1.0, *self.draw.uniform(0.55, 1.0, 2)]
        products = {row: share * size for row, share in zip(rows, shares, strict=True)}
        self.plant(decoder, Plant(layer, token, col, products))
        decoder.truth = {Coordinate(layer, row, col) for row in rows}
        return decoder

    def cancelled(self) -> Decoder:
        decoder = self.decoder("cancellers")
        blocks = len(decoder.inputs)
        layer, (row,), (col, late), size = self.early(decoder), self.channels(1), self.cols(2), self.size()
        token = self.token()
        self.plant(decoder, Plant(layer, token, col, {row: size}))
        at = blocks - int(self.draw.integers(1, 3))
        self.plant(decoder, Plant(at, token, late, {row: -size * self.draw.uniform(0.5, 1.0)}))
        decoder.truth = {Coordinate(layer, row, col)}
        return decoder

    def post_norm(self) -> Decoder:
        decoder = self._with_gains("gains of a norm behind the MLP", normed=True)
        layer, (row,), (col,), token = self.early(decoder), self.channels(1), self.cols(1), self.token()
        # The write is bounded by the norm: its gain makes it enormous.
        self.plant(decoder, Plant(layer, token, col, {row: self.draw.uniform(2, 20)}))
        gain = self._outstanding(decoder, layer, row)
        decoder.truth = {Coordinate(layer, row, col), gain}
        # A later norm has an enormous gain there too, and next to nothing to multiply.
        self._outstanding(decoder, layer + 2, row)
        decoder.weights[layer + 2, row] *= 1e-3
        return decoder

    def gain_alone(self) -> Decoder:
        decoder = self._with_gains("a gain, and no scalar", normed=True)
        layer, (row,) = self.early(decoder), self.channels(1)
        # Many inputs agree at one token: each makes a hundredth of the write.
        signs = np.sign(decoder.weights[layer, row])
        decoder.inputs[layer, 0] = np.abs(decoder.inputs[layer, 0]).clip(0.5, 1.5) * signs
        decoder.weights[layer, row] = 0.05 * signs
        decoder.truth = {self._outstanding(decoder, layer, row)}
        return decoder

    def layer_scale(self) -> Decoder:
        decoder = self._with_gains("layer scales", normed=False)
        layer, (row,), (col,), token = self.early(decoder), self.channels(1), self.cols(1), self.token()
        own = float(self.draw.uniform(8, 60) * 0.1)
        decoder.gains[layer][row] = own
        self.plant(decoder, Plant(layer, token, col, {row: self.size() / own}))
        decoder.truth = {Coordinate(layer, row, col), GainCoordinate(layer, NORM, row)}
        return decoder

    def ordinary_gains(self) -> Decoder:
        decoder = self._with_gains("a scalar behind ordinary gains", normed=False)
        layer, (row,), (col,) = self.early(decoder), self.channels(1), self.cols(1)
        product = self.size() / float(decoder.gains[layer][row])
        self.plant(decoder, Plant(layer, self.token(), col, {row: product}))
        decoder.truth = {Coordinate(layer, row, col)}
        return decoder

    def _with_gains(self, kind: str, *, normed: bool) -> Decoder:
        decoder = self.decoder(kind)
        decoder.normed = normed
        for layer in range(len(decoder.inputs)):
            gains = 0.1 * np.exp(0.45 * self.draw.standard_normal(HIDDEN))
            decoder.gains[layer] = (gains * (2 if normed else 1)).astype(np.float32)
        return decoder

    def _outstanding(self, decoder: Decoder, layer: int, row: int) -> GainCoordinate:
        decoder.gains[layer][row] = self.draw.uniform(100, 2000)
        return GainCoordinate(layer, NORM, row)

    def experts(self) -> Decoder:
        decoder = self.decoder("experts", routed=True)
        layer, (row,), (col,), token = self.early(decoder), self.channels(1), self.cols(1), self.token()
        factors = decoder.factors
        expert = 0 if factors is None else int(factors[layer, token].argmax())
        self.plant(decoder, Plant(layer, token, col, {row: self.size()}, expert))
        decoder.truth = {Coordinate(layer, row, col, expert)}
        return decoder

    def noise(self) -> Decoder:
        """Heavy tails, a stream of any size, and input spikes that write nothing: no answer."""
        decoder = self.decoder("nothing but large noise", heavy=True)
        scale = float(np.exp(self.draw.uniform(0, 4)))
        for part in (decoder.start, decoder.others):
            part *= scale
        decoder.weights *= scale
        for _ in range(3):
            layer, token, (col,) = self.early(decoder, 1.0), self.token(), self.cols(1)
            decoder.inputs[layer, token, col] = self.draw.uniform(100, 1000)
            decoder.weights[layer, :, col] = 0  # an orphaned spike
        return decoder

    def large_channel(self) -> Decoder:
        """A channel of a few dozen medians, as trained models have: ordinary, whatever makes it."""
        decoder = self.decoder("an ordinary large channel")
        layer, (row,), (col,) = self.early(decoder), self.channels(1), self.cols(1)
        self.plant(decoder, Plant(layer, self.token(), col, {row: self.draw.uniform(15, 45)}))
        return decoder

    def short_lived(self) -> Decoder:
        """Written early and taken away before half of the later blocks have seen it."""
        decoder = self.decoder("one that dies out soon")
        blocks = len(decoder.inputs)
        layer, (row,), (col, other), size = (
            self.early(decoder, 0.2),
            self.channels(1),
            self.cols(2),
            self.size(),
        )
        token, lives = self.token(), self.draw.uniform(0.1, 0.45)
        self.plant(decoder, Plant(layer, token, col, {row: size}))
        until = max(layer + 1, int(layer + lives * (blocks - 1 - layer)))
        self.plant(decoder, Plant(until, token, other, {row: -size}))
        return decoder

    def embedded(self) -> Decoder:
        decoder = self.decoder("in the embedding already")
        (row,) = self.channels(1)
        decoder.start[self.token(), row] = self.size()
        return decoder

    def diffuse(self) -> Decoder:
        """An enormous write that no scalar makes a twentieth of."""
        decoder = self.decoder("made by many, no scalar")
        layer, (row,) = self.early(decoder), self.channels(1)
        signs = np.sign(decoder.weights[layer, row])
        decoder.inputs[layer, 0] = self.draw.uniform(5, 10, INTERMEDIATE) * signs
        decoder.weights[layer, row] = signs * self.draw.uniform(1, 2, INTERMEDIATE)
        return decoder

    def echoes(self) -> Decoder:
        decoder = self.decoder("late echoes")
        blocks = len(decoder.inputs)
        layer, rows, cols, size = self.early(decoder), self.channels(3), self.cols(3), self.size()
        token = self.token()
        self.plant(decoder, Plant(layer, token, cols[0], {rows[0]: size}))
        for at, row, col in zip((blocks - 2, blocks - 1), rows[1:], cols[1:], strict=True):
            self.plant(decoder, Plant(at, token, col, {row: size * self.draw.uniform(0.5, 2.0)}))
        decoder.truth = {Coordinate(layer, rows[0], cols[0])}
        return decoder

    def only_late(self) -> Decoder:
        decoder = self.decoder("nothing but late spikes")
        blocks = len(decoder.inputs)
        for at, row, col in zip((blocks - 2, blocks - 1), self.channels(2), self.cols(2), strict=True):
            self.plant(decoder, Plant(at, self.token(), col, {row: self.size()}))
        return decoder


KINDS: tuple[Callable[[Maker], Decoder], ...] = (
    Maker.one,
    Maker.several,
    Maker.chain,
    Maker.lesser_channel,
    Maker.equal_channels,
    Maker.cancelled,
    Maker.post_norm,
    Maker.gain_alone,
    Maker.layer_scale,
    Maker.ordinary_gains,
    Maker.experts,
    Maker.noise,
    Maker.large_channel,
    Maker.short_lived,
    Maker.embedded,
    Maker.diffuse,
    Maker.echoes,
    Maker.only_late,
)


def decoders(each: int, seed: int = 20241111) -> list[Decoder]:
    """Return so many decoders of each kind."""
    maker = Maker(seed)
    return [kind(maker) for kind in KINDS for _ in range(each)]
