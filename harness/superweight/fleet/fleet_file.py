"""Read fleet.toml: which models, what is done with each, and how."""

from __future__ import annotations

import glob
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from superweight.checkpoints.registry_table import one_of
from superweight.core.duration import parse_duration
from superweight.core.environment import DEVICES
from superweight.core.errors import BadInput
from superweight.core.size import parse_size
from superweight.fleet.job import EXPECTATIONS, MODES, REPORT, SCAN, Job

_SIZES, _GPU = ("memory", "cache_limit"), "gpu_memory"
_DEPTHS = ("static", "activations", "quality", "all")
# Bytes of the GPU that is reckoned with where nothing is said.
GPU_MEMORY = 80 * 10**9


class Options(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What may stand in ``[options]``, in a ``[[models]]`` and in a ``[[search]]``."""

    mode: str | None = None
    base: str | None = None
    expect: str | None = None
    device: str | None = None
    dtype: str | None = None
    trust: list[str] | None = None
    engine: str | None = None
    corpus: str | None = None
    baselines: str | None = None
    depth: str | None = None
    limits: str | None = None
    timeout: str | None = None
    cpus: float | None = None
    gpus: float | None = None
    memory: str | None = None
    cache_limit: str | None = None
    pages: bool | None = None
    stream: bool | None = None

    def given(self) -> dict[str, Any]:
        """Return the options that are given."""
        own = Options.__struct_fields__
        return {name: value for name in own if (value := getattr(self, name)) is not None}


class ModelTable(Options, forbid_unknown_fields=True, kw_only=True):
    """One ``[[models]]``."""

    model: str


class SearchTable(Options, forbid_unknown_fields=True, kw_only=True):
    """One ``[[search]]``: models of the hub, by their organisation, a text, or tags."""

    org: str | None = None
    search: str | None = None
    tags: list[str] = []
    newer_than: str | None = None
    max_size: str | None = None
    most: int | None = None


class _Document(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    options: Options = msgspec.field(default_factory=Options)
    gpu_memory: str | None = None
    registries: list[str] = []
    models: list[ModelTable] = []
    search: list[SearchTable] = []


@dataclass(frozen=True)
class Fleet:
    """What a fleet.toml says: its models, its searches, and what holds for all of them.

    ``gpu_memory`` is in bytes. Relative paths lead on from ``folder``.
    """

    models: tuple[ModelTable, ...]
    searches: tuple[SearchTable, ...]
    options: Options
    folder: Path
    gpu_memory: int = GPU_MEMORY
    registries: tuple[str, ...] = ()

    def jobs(self) -> Iterator[Job]:
        """Yield a job for every model that the file names, in its order; searches are not made."""
        for table in self.models:
            for model in _expanded(table, self.options, self.folder):
                yield self.job(model, table)

    def job(self, model: str, table: Options) -> Job:
        """Return the job of one model. Raises `BadInput` naming the model and the option that is wrong."""
        try:
            chosen = {**self.options.given(), **table.given()}
            return _job(model, chosen, self)
        except BadInput as error:
            raise BadInput(f"model {model}: {error}") from error


def read_fleet(path: Path, registries: tuple[str, ...] = ()) -> Fleet:
    """Read a fleet.toml. Raises `BadInput` naming the file and what is wrong in it."""
    try:
        text = tomllib.loads(path.read_text(encoding="utf-8"))
        document = msgspec.convert(text, _Document)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"cannot read the fleet {path}: {error}") from error
    except msgspec.ValidationError as error:
        raise BadInput(f"{path}: {str(error).replace('`$.', '`')}") from error
    if not document.models and not document.search:
        raise BadInput(
            f"{path} names no models; give [[models]] with model = ..., or [[search]] with org = ..."
        )
    folder = path.parent.absolute()
    gpu_memory = GPU_MEMORY if document.gpu_memory is None else parse_size(document.gpu_memory)
    named = tuple(_led_on(each, folder) for each in document.registries)
    models, searches = tuple(document.models), tuple(document.search)
    fleet = Fleet(models, searches, document.options, folder, gpu_memory, (*named, *registries))
    try:
        _refuse_twice(fleet)
        for table in searches:
            fleet.job("org/name", table)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    return fleet


def _refuse_twice(fleet: Fleet) -> None:
    seen: dict[str, str] = {}
    for job in fleet.jobs():
        if job.id in seen:
            raise BadInput(f"{job.model} stands there twice with the same mode and base; leave one out")
        seen[job.id] = job.model


def _expanded(table: ModelTable, options: Options, folder: Path) -> list[str]:
    """Return the models that a table names: stored reports may be named by a pattern."""
    if (table.mode or options.mode) != REPORT or not glob.has_magic(table.model):
        return [table.model]
    found = sorted(glob.glob(table.model, root_dir=folder))  # noqa: PTH207  # a relative name, as it is given
    if not found:
        raise BadInput(f"model {table.model}: no file matches")
    return found


def _led_on(text: str, folder: Path) -> str:
    return text if "://" in text else str(folder / text)


def _job(model: str, chosen: dict[str, Any], fleet: Fleet) -> Job:
    mode = chosen.get("mode", "compare" if chosen.get("base") else Job.mode)
    one_of("mode", mode, MODES)
    chosen["mode"] = mode
    chosen.setdefault("expect", EXPECTATIONS[mode][0])
    one_of(f"expect of mode {mode}", chosen["expect"], EXPECTATIONS[mode])
    one_of("device", chosen.get("device"), DEVICES)
    one_of("dtype", chosen.get("dtype"), ("auto", "float32", "bfloat16", "float16"))
    one_of("engine", chosen.get("engine"), ("transformers", "llama.cpp"))
    one_of("depth", chosen.get("depth"), _DEPTHS)
    for name in chosen.setdefault("trust", ()):
        one_of("trust", name, ("pickle", "remote-code"))
    chosen["trust"] = tuple(chosen["trust"])
    if mode == "compare" and chosen.get("base") is None:
        raise BadInput('mode compare needs a base: a model, "registry", or "card"')
    if chosen.get("stream") and mode != SCAN:
        raise BadInput(f"stream is for mode scan, and this is mode {mode}")
    if "timeout" in chosen:
        chosen["timeout"] = parse_duration(chosen["timeout"])
    for name in _SIZES:
        if name in chosen:
            chosen[name] = parse_size(chosen[name])
    for name in ("cpus", "gpus"):
        if name in chosen and not 0 <= chosen[name] < 1e6:
            raise BadInput(f"{name} {chosen[name]} is no number of them")
    if chosen.get("limits") is not None:
        chosen["limits"] = _led_on(chosen["limits"], fleet.folder)
    if chosen.get("corpus") not in (None, "builtin", "wikitext2"):
        chosen["corpus"] = _led_on(chosen["corpus"], fleet.folder)
    chosen["baselines"] = _led_on(chosen.get("baselines", Job.baselines), fleet.folder)
    job = Job(model=model, folder=str(fleet.folder), registries=fleet.registries, **chosen)
    if job.streamed and (job.trust or job.device not in ("auto", "cpu")):
        raise BadInput("a scan block by block is on the CPU and without trust; leave device and trust out")
    return job
