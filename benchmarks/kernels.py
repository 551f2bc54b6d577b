"""On CUDA: how many operations a look launches, and how often the host waits for their results."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

from benchmarks.timing import Row
from superweight.claims.evidence import Evidence
from superweight.core.statistics import looks
from superweight.measurement import batched_ablation, evaluate
from superweight.model.architecture import inspect_architecture
from superweight.model.subject import Subject


class Launches(TorchDispatchMode):
    """Counts operations; a view of a tensor launches nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not func.is_view:
            self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def rows(subject: Subject) -> list[Row]:
    """Return the lines on launches, counted on the model's shapes: no number is computed or fetched."""
    evidence = Evidence(subject, "builtin")
    conditions, windows = evidence.conditions, evidence.windows.first(looks(len(evidence.windows.ids))[0])
    model = copy.deepcopy(subject.model).to("meta")
    shapes = replace(subject, model=model, architecture=inspect_architecture(model))
    ids = torch.from_numpy(windows.ids).to("meta")
    nothing = torch.zeros(0, dtype=torch.long, device="meta")
    # Transformers' own question, once a pass: are the sequences packed? It waits for the device.
    with patch.object(masking_utils, "find_packed_sequence_indices", return_value=None) as asked:
        with Launches() as bare, torch.no_grad():
            evaluate.log_probabilities(model(input_ids=ids, use_cache=False).logits)
        asked.reset_mock()
        with Launches() as look, patch.object(batched_ablation, "prove") as proofs:
            names = {condition.name for condition in conditions}
            evaluate._fitting(shapes, ids, conditions, nothing, names)
    launched = look.counts.total() / bare.counts.total()
    look_is = f"a look at {len(ids)} windows ({look.counts.total():,}, {len(conditions)} conditions)"
    return [
        Row(
            "launches",
            f"operations launched by {look_is} over those of a bare pass ({bare.counts.total():,})",
            f"{launched:.3g}",
        ),
        Row("launches", "times that transformers itself waits in it, once a pass", str(asked.call_count)),
        Row(
            "launches",
            "tensors fetched at its end: four a condition and the intact model, and one a proof",
            str(4 * (len(conditions) + 1) + proofs.call_count),
        ),
    ]
