"""Print a scan: the finding in one line, then a line for each of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from superweight.core.readable import readable, times, titled
from superweight.detection.findings import SuperActivation, SuperWeight
from superweight.detection.scan import Scan, head_room
from superweight.detection.scan_record import neurons
from superweight.detection.steadiness import Place, Steadiness
from superweight.measurement.conditions import PRUNED
from superweight.measurement.effect import Effect, summary
from superweight.model.subject import Subject

# Lists that go on for longer are cut, and say so; --json has all of them.
_LISTED = 8


def scan_lines(
    subject: Subject, found: Scan, steady: Steadiness | None, effect: Effect | None
) -> Iterator[str]:
    """Yield the lines, each scalar's within 80 columns; ``steady`` is None where one prompt was looked at."""
    yield f"{titled(subject.name)}: {summary(found, effect)}"
    yield from _weights(found, steady, effect)
    yield from _gains(found, steady)
    yield from _chain(found)
    for neuron in neurons(found.super_weights):
        if len(neuron["rows"]) > 1:
            channels = ", ".join(map(str, neuron["rows"]))
            yield f"one neuron: block {neuron['layer']}, column {neuron['col']} writes channels {channels}"
    if effect is not None:
        yield from _effect(effect)
    if steady is not None:
        yield from _sure(found, steady)
    yield from _cut(
        [
            f"super activation: channel {item.channel}, token {item.token}, "
            f"blocks {item.onset} to {_last(found, item)}, magnitude {readable(item.magnitude, 6)}"
            for item in found.super_activations
        ],
        "super activations",
    )
    for canceller in found.cancellers:
        yield f"canceller: {canceller.coordinate} = {canceller.value:.6g}"
    for kind, weights in (("companion", found.companions), ("successor", found.successors)):
        yield from _cut([_beside(kind, weight) for weight in weights], f"{kind}s")
    room = head_room(subject, found)
    shares = ", ".join(f"{share:.2g} of what {dtype} holds" for dtype, share in room["share"].items())
    yield f"largest activation {readable(room['largest'], 6)}: {shares}"
    yield f"{found.stop_reason} after {found.passes} pass{'es' * (found.passes > 1)}"
    yield from _depth(found)


def _last(found: Scan, item: SuperActivation) -> str:
    """Return where a plateau ends; of one that lasts to the end of what was run, no more is known."""
    depth = found.depth
    open_ended = depth is not None and not depth.whole and item.last == depth.blocks - 1
    return f"at least {item.last}" if open_ended else str(item.last)


def _depth(found: Scan) -> Iterator[str]:
    depth = found.depth
    if depth is None or depth.whole:
        return
    if found.provisional:
        yield (
            f"provisional: {depth}; a full pass (--full) would add what takes the activation away, where its "
            "plateau ends, and whether a later one is larger"
        )
    else:
        yield f"not settled: {depth}; what the other blocks make is not known"


def _weights(found: Scan, steady: Steadiness | None, effect: Effect | None) -> Iterator[str]:
    if not found.super_weights:
        return
    head = ("super weight", "value", "makes", "of write", "rank", "token", "prompts", "alone")
    rows = [head]
    for index, weight in enumerate(found.super_weights):
        rank = found.ranks[weight.coordinate]
        single = None if effect is None else effect.alone(index)
        rows.append(
            (
                str(weight.coordinate),
                f"{weight.value:.6g}",
                f"{weight.part:.1%}",
                f"{weight.share:.1%}",
                "?" if rank is None else f"{rank:,}",
                str(weight.token),
                _prompts(weight.coordinate, steady),
                "" if single is None else times(single.value),
            )
        )
    yield from _table(rows)


def _gains(found: Scan, steady: Steadiness | None) -> Iterator[str]:
    if not found.gains:
        return
    rows = [("gain of a norm", "value", "median", "makes", "rank", "prompts")]
    rows += [
        (
            str(gain.coordinate),
            readable(gain.value),
            readable(gain.median),
            f"{gain.part:.1%}",
            f"{gain.rank:,}",
            _prompts(gain.coordinate, steady) if gain.makes else "",
        )
        for gain in found.gains
    ]
    yield from _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows with the first column to the left and the others to the right, no line broken."""
    rows = [
        [cell for cell, used in zip(row, map(any, zip(*rows[1:], strict=True)), strict=True) if used]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()


def _prompts(place: Place, steady: Steadiness | None) -> str:
    if steady is None:
        return ""
    seen = steady.seen[place]
    return f"{seen.prompts}/{seen.of}"


def _chain(found: Scan) -> Iterator[str]:
    making = [link for link in found.links if link.part > 0 and link.layer <= found.super_activations[0].last]
    if len(making) > 1:
        parts = ", ".join(f"{link.part:.0%} in {link.layer}" for link in making)
        yield f"chain: channel {making[0].channel} is built up over blocks, {parts}"


def _effect(effect: Effect) -> Iterator[str]:
    rows = [("pruned", "scalars", "perplexity", "interval of 95 %")]
    whole = {"super weights": effect.ratios[PRUNED]} if PRUNED in effect.ratios else {}
    for name, ratio in (whole | effect.beside).items():
        ends = f"{times(ratio.interval.low)} to {times(ratio.interval.high)}"
        rows.append((name, f"{ratio.pruned:,}", times(ratio.value), ends))
    yield from _table(rows)
    text = f"{effect.windows} windows of {effect.corpus}"
    yield f"nothing pruned: perplexity {readable(effect.perplexity)}, on {text}"


def _sure(found: Scan, steady: Steadiness) -> Iterator[str]:
    """Say which scalars are found in too few prompts to be the model's, and what other prompts show."""
    for weight in found.super_weights:
        seen = steady.seen[weight.coordinate]
        if not seen.of_the_model:
            yield (
                f"{weight.coordinate} is found in {seen.prompts} of {seen.of} prompts: "
                "not a super weight of the model"
            )
        elif seen.greatest > 1.5 * seen.least:
            yield f"{weight.coordinate} makes {seen.least:.0%} to {seen.greatest:.0%}, by the prompt"
    for place, seen in steady.elsewhere.items():
        said = "on other prompts" if seen.of_the_model else "not one of the model"
        yield f"{place} is found in {seen.prompts} of {seen.of} prompts: {said}"


def _beside(kind: str, weight: SuperWeight) -> str:
    made = f"makes {weight.part:.1%} of an activation on channel {weight.coordinate.row}"
    return f"{kind}: {weight.coordinate} = {weight.value:.6g} {made}"


def _cut(lines: Sequence[str], what: str) -> Iterator[str]:
    yield from lines[:_LISTED]
    if len(lines) > _LISTED:
        yield f"{len(lines) - _LISTED} more {what}: --json lists them"
