"""What `superweight compare` says of a release, depth by depth, the base measured once for all."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from superweight.checkpoints.model_ref import parse_model
from superweight.claims.run_config import RunConfig
from superweight.core.errors import BadInput
from superweight.core.resources import fixtures_directory
from superweight.release.compare import CompareRequest, loaded_base, looked_at
from superweight.release.result import STATIC, Check

# A quarter of the corpus, so that many releases can be judged; the long windows are the product's own.
DOCUMENTS = 16
MODEL = "smollm2-135m-instruct-q4_1"


class Judge:
    """Judges releases of one base, which is loaded and measured once."""

    def __init__(self, base: Path, work: Path) -> None:
        corpus = work / "passages"
        corpus.mkdir(parents=True, exist_ok=True)
        for file in sorted((fixtures_directory() / "corpus").glob("*.txt"))[:: 48 // DOCUMENTS]:
            (corpus / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
        self._base = parse_model(f"{MODEL}={base}")
        self._run = RunConfig(corpus=str(corpus), device="cpu")
        self._held = loaded_base(CompareRequest(self._base, self._base, run_config=self._run))

    def __call__(self, release: Path) -> dict[str, Any]:
        """Return the checks as they were before any depth settled another."""
        begun = time.monotonic()
        try:
            seen = looked_at(
                CompareRequest(self._base, parse_model(str(release)), run_config=self._run), held=self._held
            )
        except BadInput as error:
            return {"refused": str(error)}
        return {
            "seconds": round(time.monotonic() - begun),
            "checks": written(seen),
        }


def files(base: Path, release: Path) -> list[dict[str, Any]]:
    """Return what the files alone say of a release."""
    request = CompareRequest(
        parse_model(f"{MODEL}={base}"), parse_model(str(release)), depths=(STATIC,), run_config=RunConfig()
    )
    return written(looked_at(request))


def written(checks: list[Check]) -> list[dict[str, Any]]:
    # JSON has no infinity.
    return [check.as_dict() | {"excess": str(check.excess)} for check in checks]
