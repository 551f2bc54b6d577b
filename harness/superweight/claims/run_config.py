"""Hold the options of a run: how models are loaded, and on which text they are measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from superweight.checkpoints.cache import Progress, silent
from superweight.checkpoints.model_ref import ModelRef
from superweight.core.resources import DEFAULT_BASELINES

if TYPE_CHECKING:
    from superweight.claims.evidence import Evidence
    from superweight.model.subject import Subject


@dataclass(frozen=True)
class RunConfig:
    """The options that every model of a run shares, as on the command line.

    ``loaded`` holds the models that are in memory already.
    """

    corpus: str = "builtin"
    baselines: Path = DEFAULT_BASELINES
    device: str = "auto"
    dtype: str = "auto"
    trust: tuple[str, ...] = ()
    loaded: tuple[Subject, ...] = ()

    def load(self, model: ModelRef, progress: Progress = silent) -> Subject:
        """Load a model that is not in memory yet; raises `BadInput` where that cannot be done."""
        for subject in self.loaded:
            if subject.entry == model.entry:
                return subject
        # Comparing files needs these options and no torch.
        from superweight.model.loading import load

        return load(model.entry, device=self.device, dtype=self.dtype, trust=self.trust, progress=progress)

    def evidence(self, model: ModelRef, progress: Progress = silent) -> Evidence:
        """Load a model to be measured."""
        from superweight.claims.catalogue import SEQUENTIAL
        from superweight.claims.evidence import Evidence

        return Evidence(self.load(model, progress), self.corpus, tests=SEQUENTIAL)
