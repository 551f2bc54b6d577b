"""Load the models of a pytest run, and end a test whose model cannot be had."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from superweight.checkpoints.model_ref import ModelRef, parse_model
from superweight.checkpoints.registry import STORED, ModelEntry
from superweight.core.environment import in_ci
from superweight.core.errors import (
    CANNOT_RUN_HERE,
    BadInput,
    BrokenModel,
    TooLarge,
    Unavailable,
    one_line,
)
from superweight.pytest_plugin.xdist import share_cores

if TYPE_CHECKING:
    from collections.abc import Callable

    from superweight.engines.engine import Engine
    from superweight.model.subject import Subject
KEPT_BYTES = 2**30
_KEPT = pytest.StashKey[dict[tuple[str, str], "Subject"]]()
_NAMED = pytest.StashKey[tuple[tuple[ModelRef, ...], ModelRef | None]]()


def parse_models(config: pytest.Config) -> None:
    """Read --sw-model and --sw-base, once, from where the run began.

    Raises `pytest.UsageError` for a name that cannot be right, and for a base that is the model.
    """
    given = config.option
    if not any((given.sw_model, given.sw_base, given.sw_registry, given.sw_base_engine)):
        return  # a project that names no model does not wait for what reads them
    from superweight.checkpoints.index_registry import also_reading
    from superweight.checkpoints.sources import require_different_models
    from superweight.claims.run_config import RunConfig

    folder, option = config.invocation_params.dir, config.option
    registries = ExitStack()
    config.add_cleanup(registries.close)
    try:
        registries.enter_context(also_reading(option.sw_registry))
        named = tuple(parse_model(spec, folder) for spec in option.sw_model)
        base = None if option.sw_base is None else parse_model(option.sw_base, folder)
        if base is not None:
            for model in named:
                require_different_models(base.entry, model.entry)
        if option.sw_base_engine is not None and base is None:
            raise BadInput(
                "--sw-base-engine is for the base of --sw-base, and none is given; give it as well"
            )
        asked = RunConfig(engine=option.sw_engine, base_engine=option.sw_base_engine)
        for model in named:
            asked.require_engines(model, base)
    except BadInput as error:
        raise pytest.UsageError(one_line(error)) from error
    config.stash[_NAMED] = named, base


def named_models(config: pytest.Config) -> tuple[ModelRef, ...]:
    """Return the models of --sw-model."""
    return config.stash.get(_NAMED, ((), None))[0]


def base_model(config: pytest.Config) -> ModelRef | None:
    """Return the model of --sw-base, if one is given."""
    return config.stash.get(_NAMED, ((), None))[1]


def ref_of(config: pytest.Config, entry: ModelEntry) -> ModelRef:
    """Return how the run came to an entry: by name, or picked by the markers."""
    named = [ref for ref in named_models(config) if ref.entry == entry]
    return named[0] if named else ModelRef.of(entry)


def damaged(name: str, error: BadInput) -> BaseException:
    """Return what ends a test of a model in which damage was seen."""
    return pytest.fail.Exception(f"{name} is damaged: {one_line(error)}", pytrace=False)


def not_judged(name: str, error: BadInput) -> BaseException:
    """Return what ends the setup of a test of a model that could not be looked at here."""
    return pytest.fail.Exception(f"{name} cannot be judged here: {one_line(error)}", pytrace=False)


def engine_loader(config: pytest.Config, model: ModelRef | Subject) -> Callable[[Subject], Engine] | None:
    """Return what loads the engine of --sw-engine for a model under test, or for the base.

    A base that is no file for it stays in transformers, for which None stands.
    --sw-base-engine says another.
    """
    from superweight.claims.run_config import RunConfig

    option = config.option
    asked = RunConfig(
        corpus=option.sw_corpus,
        device=option.sw_device,
        engine=option.sw_engine,
        base_engine=option.sw_base_engine,
    )
    name = asked.engine_of_base(model) if isinstance(model, ModelRef) else asked.engine
    return asked.engine_loader(name)


def acquire(config: pytest.Config, model: ModelRef) -> Subject:
    """Load a model, or end the test, or the run, in the way that fits what stands against it.

    A model that somebody named and that is not there ends the run like a bad option (exit code 4).
    One that the markers picked is skipped where it cannot be had, which is an error under CI, and
    where it does not fit.
    """
    from superweight.model.loading import load

    entry, named = model.entry, model.named_by_user
    kept = config.stash.setdefault(_KEPT, {}).pop((entry.name, entry.source), None)
    if kept is not None:
        return kept
    option = config.option
    share_cores()
    try:
        if not named and entry.tier == "gpu":
            _refuse_too_large(entry, option.sw_dtype)
        return load(
            entry, device=option.sw_device, dtype=option.sw_dtype, trust=option.sw_trust, offload=named
        )
    except BadInput as error:
        if isinstance(error, BrokenModel) and model != base_model(config):
            raise damaged(entry.name, error) from None
        if named and isinstance(error, CANNOT_RUN_HERE):
            raise not_judged(entry.name, error) from None
        if named:
            pytest.exit(f"error: {one_line(error)}", returncode=pytest.ExitCode.USAGE_ERROR)
        if isinstance(error, TooLarge) or (isinstance(error, Unavailable) and not in_ci()):
            pytest.skip(f"{entry.name}: {error}")
        pytest.fail(f"{entry.name}: {error}", pytrace=False)


def release(config: pytest.Config, subject: Subject) -> None:
    """Free a model that no test at hand needs; a small one on a CPU is kept instead.

    Under xdist's work stealing a worker may be given tests of a model that it was done with.
    """
    from superweight.model.subject import free

    kept = config.stash.setdefault(_KEPT, {})
    size = sum(_bytes(each) for each in (*kept.values(), subject))
    if subject.device.type == "cpu" and size <= KEPT_BYTES:
        kept[subject.entry.name, subject.entry.source] = subject
    else:
        free(subject)


def _bytes(subject: Subject) -> int:
    return sum(tensor.nbytes for tensor in subject.model.parameters())


def _refuse_too_large(entry: ModelEntry, dtype: str) -> None:
    """Raise `TooLarge` before a model is downloaded that would not fit."""
    from superweight.model.devices import present
    from superweight.model.placement import place_model

    weights, devices = entry.weight_bytes(STORED.get(dtype)), present()
    if weights is not None and devices:
        place_model(weights, [device.free for device in devices])
