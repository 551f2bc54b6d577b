"""Share GPUs and cores out among xdist's workers, and keep a model's tests together.

A worker sees GPUs of its own: the controller tells it which, and it says so to CUDA before anything
initialises it. Where workers outnumber GPUs, all tests that need one run on one worker.
"""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from superweight.model.devices import callers_devices, described, make_deterministic, present, see_only, share

_GROUP = "gpu"
_INPUT = "superweight_devices"


def asks_for_gpu(config: pytest.Config) -> bool:
    """Tell whether the run was asked for tests on a GPU, by ``-m gpu``."""
    return re.search(r"(?<!not )\bgpu\b", config.option.markexpr or "") is not None


def _worker_input(config: pytest.Config) -> dict[str, Any] | None:
    """Return what the controller told this worker; None in the controller and without xdist."""
    told: dict[str, Any] | None = getattr(config, "workerinput", None)
    return told


def prepare(config: pytest.Config) -> None:
    """Settle which GPUs this process sees; raises `pytest.UsageError` where a GPU run cannot be shared.

    To be called first: torch looks at the variable once, when CUDA is initialised.
    """
    told = _worker_input(config)
    if told is not None and told.get(_INPUT):
        see_only(told[_INPUT])
    if not asks_for_gpu(config) or config.option.collectonly:
        return
    if told is None and getattr(config.option, "dist", "no") not in ("no", "loadgroup"):
        raise pytest.UsageError(
            "-m gpu under xdist needs --dist loadgroup: other ways would load each model on every worker"
        )
    if not present():
        raise pytest.UsageError("-m gpu asks for tests on a GPU, but torch sees no CUDA device here")
    make_deterministic()


def header(config: pytest.Config) -> list[str]:
    """Return what the header says of the GPUs, where the run was asked for them."""
    if not asks_for_gpu(config) or config.option.collectonly or _worker_input(config) is not None:
        return []
    return [f"super weights: {described(present())}"]


def tell(node: Any) -> None:
    """Tell a worker which GPUs are its own; ``node`` is xdist's controller of it."""
    if asks_for_gpu(node.config) and not node.config.option.collectonly:
        workers = int(node.workerinput["workercount"])
        devices = callers_devices()
        index = int(re.sub(r"\D", "", node.workerinput["workerid"]))
        node.workerinput[_INPUT] = share(devices, index, workers)
        node.workerinput[f"{_INPUT}_outnumbered"] = workers > len(devices)


def group(config: pytest.Config, name: str, *, on_gpu: bool) -> str:
    """Return the xdist group of a model's tests: one worker loads a model once."""
    told = _worker_input(config) or {}
    return _GROUP if on_gpu and told.get(f"{_INPUT}_outnumbered") else name


def by_model(items: list[pytest.Item]) -> None:
    """Bring tests of one model together, in the order in which the models first come.

    Tests of no model stay where they are.
    """
    specs = [getattr(item, "callspec", None) for item in items]
    names = [spec.params["sw_entry"].name if spec and "sw_entry" in spec.params else None for spec in specs]
    places = [index for index, name in enumerate(names) if name is not None]
    first = {name: place for place, name in reversed(list(enumerate(names)))}
    ordered = [items[index] for index in sorted(places, key=lambda index: first[names[index]])]
    for index, item in zip(places, ordered, strict=True):
        items[index] = item


def keep_together(items: list[pytest.Item]) -> None:
    """Put the tests that need a GPU and belong to no model into one group.

    On a CPU a model's properties are a group of their own: they take as long as its claims, and loading
    a model twice takes less than waiting for the longer half.
    """
    for item in items:
        on_gpu = item.get_closest_marker("gpu") is not None
        if on_gpu and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(_GROUP))
        if not on_gpu and searches(item):
            item.add_marker(pytest.mark.xdist_group("properties"))


def searches(item: pytest.Item) -> bool:
    """Tell whether a test looks for counterexamples of a property."""
    return "sw_budget" in getattr(item, "fixturenames", ())


def share_cores() -> None:
    """Divide the cores among xdist's workers: more threads than cores wait for each other."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
