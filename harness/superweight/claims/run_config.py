"""Hold the options of a run: how models are loaded, and on which text they are measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from superweight.checkpoints.cache import Progress, silent
from superweight.checkpoints.registry import ModelEntry, resolve
from superweight.core.resources import DEFAULT_BASELINES

if TYPE_CHECKING:
    from superweight.claims.evidence import Evidence
    from superweight.model.subject import Subject


@dataclass(frozen=True)
class RunConfig:
    """The options that every model of a run shares, as on the command line.

    ``loaded`` holds the models that are in memory already, by what a person would type for them.
    """

    corpus: str = "builtin"
    baselines: Path = DEFAULT_BASELINES
    device: str = "auto"
    dtype: str = "auto"
    trust: tuple[str, ...] = ()
    loaded: Mapping[str, Subject] = field(default_factory=dict)

    def load(self, spec: str | ModelEntry, progress: Progress = silent) -> Subject:
        """Load a MODEL that is not in memory yet; raises `BadInput` where that cannot be done."""
        if isinstance(spec, str) and spec in self.loaded:
            return self.loaded[spec]
        # Comparing files needs a setting and no torch.
        from superweight.model.loading import load

        return load(resolve(spec), device=self.device, dtype=self.dtype, trust=self.trust, progress=progress)

    def evidence(self, spec: str | ModelEntry, progress: Progress = silent) -> Evidence:
        """Load a MODEL to be measured."""
        from superweight.claims.evidence import Evidence

        return Evidence(self.load(spec, progress), self.corpus)
