"""Super weights found again by what they do, wherever their rows and columns have gone.

At the token whose norm jumps, d is the direction of its stream. Neuron j of the block writes
X_j (d . W_down[:, j]) along it, and over the median token's norm that number is the same however
neurons and channels are permuted, signed, scaled or rotated.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from superweight.core.coordinates import Coordinate
from superweight.detection.run_trace import trace
from superweight.detection.trace import Array, Trace
from superweight.measurement.corpus import default_prompt
from superweight.model.subject import Subject
from superweight.release.limits import Limits
from superweight.release.result import ACTIVATIONS, Check, broken, joined, within
from superweight.release.settlement import FUNCTION

# What a neuron must add, of what the strongest does, to be held to.
_COUNTS = 0.1
# A stream that lies on one channel has most of its square there; a rotated one is spread.
_ON_ONE_CHANNEL = 0.5
# Beside the largest jump, those that reach this share of it and this many times the median norm.
_ALSO, _LEAST = 0.25, 10.0
_LOOKED_AT = 8
# The cosine of what a channel held and holds: rounding leaves 0.99 of it, another channel's is near 0.
_AS_A_WHOLE = 0.9


@dataclass(frozen=True)
class Jump:
    """Where the stream of one token jumps, and what makes it.

    ``neurons`` are (expert, column), the strongest first, with their ``scores`` beside them:
    (neurons,). ``channel`` is the stream's largest, ``share`` its part of the stream's square.
    ``norm`` is the median token's, ``largest`` the stream's largest number over it. ``entering`` is what
    that channel holds of every token before the first block: (tokens,).
    """

    layer: int
    token: int
    neurons: tuple[tuple[int | None, int], ...]
    scores: Array
    channel: int
    share: float
    norm: float
    largest: float
    entering: Array

    @property
    def coordinates(self) -> list[Coordinate]:
        """The neurons that count, on the stream's largest channel."""
        return [
            Coordinate(self.layer, self.channel, col, expert) for expert, col in self.neurons[: self.counting]
        ]

    @property
    def counting(self) -> int:
        return int(np.count_nonzero(np.abs(self.scores) >= _COUNTS * np.abs(self.scores[0])))


def jumps(subject: Subject, places: Collection[tuple[int, int]] | None = None) -> tuple[Jump, ...]:
    """Return the jumps of tokens' norms in one pass over the default prompt, the largest first.

    Beside the largest all that reach a share of it: a model may have several super activations, on
    several tokens or made in several blocks. With ``places``, each a block and a token, those instead.
    """
    seen = trace(subject, default_prompt())
    norms = np.linalg.norm(seen.residual.astype(np.float64), axis=-1)
    rise = (norms[1:] - norms[:-1]) / np.median(norms[1:], axis=-1, keepdims=True)
    layers, tokens = np.unravel_index(np.argsort(-rise, axis=None), rise.shape)
    ranked = [(int(layer), int(token)) for layer, token in zip(layers, tokens, strict=True)]
    least = max(_ALSO * float(rise.max()), _LEAST)
    if places is None:
        others = [place for place in ranked[1:_LOOKED_AT] if rise[place] >= least]
    else:
        others = [(layer, token) for layer, token in places if layer < len(rise) and token < rise.shape[1]]
    chosen = dict.fromkeys([ranked[0], *others])
    return tuple(_jump(subject, seen, norms, layer, token) for layer, token in chosen)


def _jump(subject: Subject, seen: Trace, norms: Array, layer: int, token: int) -> Jump:
    stream = seen.residual[layer + 1, token]
    direction = stream / np.linalg.norm(stream)
    norm = float(np.median(norms[layer + 1]))
    found = _scores(subject, seen, layer, token, direction / norm)
    found.sort(key=lambda item: -abs(item[1]))
    channel = int(np.abs(stream).argmax())
    return Jump(
        layer,
        token,
        tuple(place for place, _ in found),
        np.array([score for _, score in found], dtype=np.float32),
        channel,
        float(direction[channel] ** 2),
        norm,
        float(np.abs(stream[channel])) / norm,
        seen.residual[0, :, channel],
    )


def _scores(
    subject: Subject, seen: Trace, layer: int, token: int, direction: Array
) -> list[tuple[tuple[int | None, int], float]]:
    """Return what each neuron of a block adds along a direction, the strongest of each part."""
    block = subject.architecture.layout[layer]
    found = []
    for write in seen.writes[layer]:
        (places,) = np.nonzero(write.tokens == token)
        if not len(places):
            continue
        projection = subject.architecture.projection(Coordinate(layer, 0, 0, write.expert))
        matrix = projection.matrix().float().cpu().numpy()
        # The factors of channels that differ in them belong to the rows of the matrix.
        values = write.inputs[places[0]] * ((direction * write.factors[places[0]]) @ matrix) * block.scale
        strongest = np.argsort(-np.abs(values))[:64]
        found += [((write.expert, int(col)), float(values[col])) for col in strongest]
    return found


def compare_functions(base: Sequence[Jump], release: Sequence[Jump], limits: Limits) -> list[Check]:
    """Return the checks of the base's jumps: the largest against the largest, the others place by place."""
    checks = [compare_function(base[0], release[0], limits)]
    at = {(jump.layer, jump.token): jump for jump in release}
    for jump in base[1:]:
        name = f"{FUNCTION}, token {jump.token} in block {jump.layer}"
        if (own := at.get((jump.layer, jump.token))) is None:
            checks.append(broken(ACTIVATIONS, name, f"block {jump.layer} or token {jump.token} is not there"))
        else:
            checks.append(replace(compare_function(jump, own, limits), name=name))
    return checks


def compare_function(base: Jump, release: Jump, limits: Limits) -> Check:
    """Return the check that the same jump is made, by neurons that do as much; and what has moved."""
    figures = {
        "base": [float(score) for score in base.scores[: base.counting]],
        "release": [float(score) for score in release.scores[: max(base.counting, release.counting)]],
        "onset": [base.layer, release.layer],
        "token": [base.token, release.token],
        "base_at": [str(place) for place in base.coordinates],
        "release_at": [str(place) for place in release.coordinates],
        "mirrored": _mirrored(base, release),
    }
    if (base.layer, base.token) != (release.layer, release.token):
        words = f"the stream jumps in block {release.layer} at token {release.token}"
        words += f" instead of block {base.layer} at token {base.token}"
        return broken(ACTIVATIONS, FUNCTION, words, **figures)
    count = base.counting
    # The strongest by itself, and all together: one of several may take over what another loses.
    ratios = [
        float(release.scores[0] / base.scores[0]),
        float(release.scores[:count].sum() / base.scores[:count].sum()),
    ]
    apart = max(max(ratio, 1 / ratio) if ratio > 0 else np.inf for ratio in ratios)
    words = f"the base's strongest neurons write {_listed(base.scores[:count])} of the median norm, "
    words += f"the release's {_listed(release.scores[:count])}"
    return within(
        ACTIVATIONS, FUNCTION, words + _moved(base, release), float(apart) / limits.magnitude_ratio, **figures
    )


def _mirrored(base: Jump, release: Jump) -> bool:
    """Tell whether the channel has the other sign as a whole, and not only where the stream jumps."""
    if base.channel != release.channel or base.entering.shape != release.entering.shape:
        return False
    product = float(base.entering @ release.entering)
    return product < -_AS_A_WHOLE * float(np.linalg.norm(base.entering) * np.linalg.norm(release.entering))


def _listed(scores: Array) -> str:
    return joined([f"{score:.4g}" for score in scores])


def _moved(base: Jump, release: Jump) -> str:
    if base.share >= _ON_ONE_CHANNEL > release.share:
        return (
            "; rotated: the base's scalars have no counterpart, the activation is spread over the channels "
            f"and its largest number {base.largest / release.largest:.3g} times smaller"
        )
    before, after = base.coordinates, release.coordinates[: base.counting]
    moved = [f"{was} is now {now}" for was, now in zip(before, after, strict=False) if was != now]
    if moved:
        return f"; the same super weights elsewhere: {joined(moved)}"
    return f"; channel {base.channel} as a whole has the other sign" if _mirrored(base, release) else ""
