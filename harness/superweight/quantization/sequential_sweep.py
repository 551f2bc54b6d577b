"""Measure what rounded weights lose on more and more windows, as far as somebody reads on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from superweight.core.statistics import looks
from superweight.detection.scan import Scan
from superweight.measurement.evaluate import Values
from superweight.measurement.sequential import in_stretches
from superweight.model.subject import Subject
from superweight.quantization.losses import Text
from superweight.quantization.sweep import BlockSize, Sweep, block_losses, chosen_roundings


class SequentialSweep:
    """Round-to-nearest and the paper's method at some block sizes, look by look.

    Where to clip is chosen once, on the text kept for it. ``intact`` gives the losses of the first
    windows of the intact model, ``affords`` tells whether there is time for so many more. What was measured
    of a stretch is not measured again.
    """

    def __init__(
        self,
        subject: Subject,
        found: Scan,
        text: Text,
        sizes: Sequence[int],
        intact: Callable[[int], Values],
        affords: Callable[[int], bool] = lambda windows: True,
    ) -> None:
        self._had: list[Sweep] = []
        self._intact = intact
        self._affords = affords
        self.windows = len(text.measured)
        self._further = self._measured(subject, found, text, sizes)

    @property
    def widest(self) -> Sweep | None:
        """The look with the most windows so far, or None; nothing is measured."""
        return self._had[-1] if self._had else None

    def looks(self) -> Iterator[Sweep]:
        """Yield the sweep over the first windows, and over more in each look.

        Raises `BadInput` for a model that cannot be rounded.
        """
        yield from tuple(self._had)
        for found in self._further:
            self._had.append(found)
            yield found

    def _measured(self, subject: Subject, found: Scan, text: Text, sizes: Sequence[int]) -> Iterator[Sweep]:
        chosen = chosen_roundings(subject, found, text.calibration, sizes)

        def losses(ids: torch.Tensor) -> dict[str, Values]:
            part: dict[str, Values] = {}
            for size, pair in chosen.items():
                block = block_losses(subject, found, ids, size, *pair)
                part |= {f"plain {size}": block.plain, f"held {size}": block.held_out}
            return part

        for count, parts in in_stretches(losses, text.measured, looks(self.windows), self._affords):
            blocks = [
                BlockSize(size, pair[1].clip, parts[f"plain {size}"], parts[f"held {size}"])
                for size, pair in chosen.items()
            ]
            yield Sweep(self._intact(count), tuple(blocks), {})
