"""Hold the options of a run: how models are loaded, and on which text they are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from superweight.checkpoints.cache import Progress, silent
from superweight.checkpoints.model_ref import ModelRef
from superweight.core.resources import DEFAULT_BASELINES

if TYPE_CHECKING:
    from superweight.claims.evidence import Evidence
    from superweight.engines.engine import Engine
    from superweight.model.subject import Subject


@dataclass(frozen=True)
class RunConfig:
    """The options that every model of a run shares, as on the command line.

    ``engine`` runs models for predictions and text, ``base_engine`` the base where that is another one.
    ``loaded`` holds the models that are in memory already.
    """

    corpus: str = "builtin"
    baselines: Path = DEFAULT_BASELINES
    device: str = "auto"
    dtype: str = "auto"
    trust: tuple[str, ...] = ()
    engine: str = "transformers"
    base_engine: str | None = None
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

        loader = self.engine_loader(self.engine)
        return Evidence(self.load(model, progress), self.corpus, load_engine=loader, tests=SEQUENTIAL)

    def for_base(self, model: ModelRef) -> RunConfig:
        """Return the same options with the engine that runs a base."""
        return replace(self, engine=self.engine_of_base(model))

    def engine_loader(self, name: str) -> Callable[[Subject], Engine] | None:
        """Return what loads an engine for a subject; None for the subject's own."""
        if name == RunConfig.engine:
            return None
        from superweight.engines.choice import load_engine

        return lambda subject: load_engine(name, subject, self.corpus, device=self.device)

    def engine_of_base(self, model: ModelRef) -> str:
        """Return the engine that runs a base: as it was asked for, else the models' where that can run it."""
        if self.base_engine is not None or self.engine == RunConfig.engine:
            return self.base_engine or self.engine
        from superweight.engines.choice import gguf_of

        return self.engine if gguf_of(model.entry) is not None else RunConfig.engine

    def require_engines(self, model: ModelRef, base: ModelRef | None = None) -> None:
        """Raise `BadInput`, before anything is loaded, for an engine that is missing or no use here."""
        asked = [(self.engine, model), *([(self.base_engine, base)] if base else [])]
        for name, each in asked:
            if name not in (None, RunConfig.engine):
                from superweight.engines.choice import require_engine

                require_engine(name, each.entry)
