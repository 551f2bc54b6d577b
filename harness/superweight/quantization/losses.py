"""NLL of fixture text under whatever has been done to a subject."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from superweight.core.errors import BadInput
from superweight.measurement.corpus import Windows
from superweight.measurement.evaluate import Values, log_probabilities, token_nll
from superweight.model.subject import Subject

# windows of 48 tokens and a vocabulary of 50,000 take 300 MB.
BATCH = 32
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
    """Return the mean NLL of each window in nats: (windows,)."""
    means = []
    for part in ids.to(subject.device).split(BATCH):
        with torch.no_grad():
            batch = subject.model(input_ids=part, use_cache=False).logits
        # One window at a time: the log-probabilities of all would be as large as the logits again.
        for window, logits in zip(part, batch, strict=True):
            found = token_nll(log_probabilities(logits[None])[0], window[1:])
            means.append(float(found.double().mean()))
    return np.array(means)
