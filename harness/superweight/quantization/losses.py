"""NLL of fixture text under whatever has been done to a subject."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from superweight.core.errors import BadInput
from superweight.measurement.conditions import INTACT
from superweight.measurement.corpus import Windows
from superweight.measurement.evaluate import Values, head_pieces, token_nll
from superweight.measurement.hidden_states import decode_one_by_one
from superweight.model.subject import Subject

# As many as any claim reads: every matrix is rounded once for all of them.
BATCH = 48
# Windows kept for choosing z and for SmoothQuant's factors; none of them is measured on.
CALIBRATION = 8


@dataclass(frozen=True)
class Text:
    """Windows to measure on and, apart from them, windows to choose parameters on.

    ``measured``: (windows, tokens), ``calibration``: (fewer windows, tokens); token ids.
    """

    measured: torch.Tensor
    calibration: torch.Tensor


def split(windows: Windows, measured: int, calibration: int = CALIBRATION) -> Text:
    """Return the first ``measured`` windows to measure on and the last ones to calibrate with.

    Raises `BadInput` when too few are left to measure on.
    """
    ids = torch.from_numpy(windows.ids)
    count = min(measured, len(ids) - calibration)
    if count < calibration:
        raise BadInput(
            f"corpus {windows.corpus} gives {len(ids)} windows, and quantisation needs {2 * calibration}: "
            f"{calibration} to choose parameters on, the others to measure on"
        )
    return Text(ids[:count], ids[-calibration:])


def nll(subject: Subject, ids: torch.Tensor) -> Values:
    """Return the mean NLL of each window in nats: (windows,).

    The decoder runs over many windows at once, so that rounded matrices are made for all of them; the head
    over a few at a time, and not over the last token, which predicts nothing.
    """
    losses = []
    for part in ids.to(subject.device).split(BATCH):
        decoded = decode_one_by_one(subject, part, [])
        for piece in head_pieces(subject, part):
            predicted = decoded.predicted(subject, INTACT, piece)
            losses.append(token_nll(predicted, part[piece, 1:]))
    means: Values = torch.cat(losses).cpu().double().mean(-1).numpy()
    return means
