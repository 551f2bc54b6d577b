"""Losses by real quantiser, with and without the super weights held out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from superweight.core.errors import BadInput
from superweight.detection.scan import Scan
from superweight.measurement.evaluate import Values
from superweight.model.subject import Subject
from superweight.quantization.backends import QUANTISERS, Quantiser, really_quantised
from superweight.quantization.losses import Text, nll
from superweight.quantization.sweep import BlockSize


@dataclass(frozen=True)
class RealLoss:
    """What one real quantiser costs, mean NLL of each window in nats: (windows,) each."""

    quantiser: Quantiser
    plain: Values
    held_out: Values


@dataclass(frozen=True)
class Refused:
    """A quantiser that does not take the model, and why."""

    quantiser: Quantiser
    reason: str


def real_sweep(
    subject: Subject,
    found: Scan,
    text: Text,
    quantisers: Iterable[Quantiser] = QUANTISERS.values(),
    progress: Callable[[str], None] = lambda step: None,
) -> tuple[RealLoss | Refused, ...]:
    """Measure every quantiser plain and with the set held out; one that refuses says why."""
    rows: list[RealLoss | Refused] = []
    for quantiser in quantisers:
        progress(str(quantiser))
        try:
            losses = []
            for hold_out in ((), found.coordinates):
                with really_quantised(subject, quantiser, hold_out_super_weights=hold_out):
                    losses.append(nll(subject, text.measured))
        except BadInput as error:
            rows.append(Refused(quantiser, str(error)))
        else:
            rows.append(RealLoss(quantiser, *losses))
    return tuple(rows)


def by_block_size(rows: Iterable[RealLoss | Refused], longest_row: int) -> tuple[BlockSize, ...]:
    """Return the losses of one quantiser as a sweep over its blocks, for claim C13; rows come last."""
    sizes = [
        BlockSize(row.quantiser.block or longest_row, None, row.plain, row.held_out)
        for row in rows
        if isinstance(row, RealLoss)
    ]
    return tuple(sorted(sizes, key=lambda block: block.size))
