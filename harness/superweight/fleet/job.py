"""Define one model of a fleet: what is done with it, how, and what it needs."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

SCAN, CHECK, COMPARE, REPORT = "scan", "check", "compare", "report"
MODES = (SCAN, CHECK, COMPARE, REPORT)
# What each mode may be held to; the first is the default.
EXPECTATIONS = {
    SCAN: ("auto",),
    CHECK: ("auto", "paper"),
    COMPARE: ("kept", "damaged", "cannot be judged"),
    REPORT: ("auto",),
}
# Where a base is looked for, instead of a MODEL.
FROM_REGISTRY, FROM_CARD = "registry", "card"
_NO_OPTION = ("model", "cpus", "gpus", "memory", "timeout", "pages", "folder", "registries", "cache_limit")


@dataclass(frozen=True)
class Job:
    """One model, what is done with it, and what that needs.

    ``base`` is a MODEL, "registry" (the model that the registry says it was tuned from) or "card" (the
    ``base_model`` of its model card). Relative paths lead on from ``folder``. ``timeout`` is in seconds,
    ``memory`` and ``cache_limit`` are in bytes; what is None follows from the model's size. ``stream`` scans
    it block by block, where its files are.
    """

    model: str
    mode: str = CHECK
    base: str | None = None
    expect: str = ""
    device: str = "auto"
    dtype: str = "auto"
    trust: tuple[str, ...] = ()
    engine: str = "transformers"
    corpus: str = "builtin"
    baselines: str = "tests/claims/baselines"
    depth: str = "all"
    limits: str | None = None
    timeout: float = 7200.0
    cpus: float = 1.0
    gpus: float | None = None
    memory: int | None = None
    cache_limit: int | None = None
    pages: bool = True
    stream: bool = False
    folder: str = ""
    registries: tuple[str, ...] = field(default=())

    @property
    def id(self) -> str:
        """A name for a folder: readable, and another one for another model, mode or base.

        >>> Job("org/name", mode="scan").id
        'org--name-d0f8b1d9'
        """
        last = "--".join(part for part in re.split(r"[/\\]", self.model) if part not in ("", ".", ".."))
        slug = re.sub(r"[^\w.-]+", "-", last)[-80:].strip("-.")
        same = "\0".join((self.model, self.mode, self.base or ""))
        return f"{slug or 'model'}-{hashlib.sha256(same.encode()).hexdigest()[:8]}"

    @property
    def streamed(self) -> bool:
        """Whether the model is scanned block by block, and not downloaded: one at an address always is.

        >>> Job("hf://org/name", mode="scan").streamed
        True
        """
        return self.mode == SCAN and (self.stream or "://" in self.model)

    @property
    def options(self) -> dict[str, Any]:
        """The options that a result depends on: not what it costs, nor where its files lie."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in _NO_OPTION}


def encoded(job: Job) -> bytes:
    """Return a job as JSON."""
    return msgspec.json.encode(job)


def decoded(data: bytes) -> Job:
    """Return the job that `encoded` wrote."""
    return msgspec.json.decode(data, type=Job)
