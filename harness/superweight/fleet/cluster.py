"""Reach a Ray cluster, or start one on this machine, and say what its nodes have."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from superweight.core.errors import BadInput
from superweight.core.reason import reason

EXTRA = "fleet"
# Seconds that a cluster may take to answer.
_PATIENCE = 10.0
# Rows pass through Ray's shared memory, and nothing larger: its smallest allowed store is 75 MB.
_STORE = 100 * 2**20
# Of a cluster of our own on this machine: tell nobody of its use, and keep no list of past tasks, which
# would grow.
_TELEMETRY = "RAY_USAGE_STATS_ENABLED"
SETTINGS = {
    _TELEMETRY: "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
    # Ray's monitor weighs its own workers, which are small, and ends one of them when another program
    # fills the memory. Left to the kernel, the largest process goes: the model's own.
    "RAY_memory_monitor_refresh_ms": "0",
}


def require_ray() -> None:
    """Raise `BadInput` naming the extra where Ray is not installed."""
    if find_spec("ray") is None:
        raise BadInput(f"a fleet needs Ray: pip install 'superweight-harness[{EXTRA}]'")


def require_answer(address: str) -> None:
    """Raise `BadInput` where nothing listens at the address of a cluster: Ray itself waits for minutes."""
    if address in ("auto", "local"):
        return
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        raise BadInput(f"--address {address} names no cluster; give host:6379 or ray://host:10001")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise BadInput(f"no Ray cluster answers at {address}: {reason(error)}") from error


@contextmanager
def cluster(address: str | None, cpus: int | None = None) -> Iterator[None]:
    """Connect to a cluster for the length of a ``with`` block; without an address start one here.

    A connection that is there already is used, and left open. Raises `BadInput` where no cluster
    answers at ``address``.
    """
    require_ray()
    if address is not None:
        require_answer(address)
    for name, value in SETTINGS.items():
        if address is None or name == _TELEMETRY:
            os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address is None:
            # "local": a cluster that somebody else runs on this machine is not taken without being named.
            ray.init(
                "local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=_STORE,
                configure_logging=False,
                **quiet,
            )
        else:
            ray.init(address, **quiet)
    except Exception as error:  # ConnectionError, ValueError, and what its client raises
        where = f"the Ray cluster at {address}" if address else "Ray on this machine"
        raise BadInput(f"cannot use {where}: {reason(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def answering(address: str | None) -> Iterator[None]:
    """Turn the loss of a cluster, in a ``with`` block, into `BadInput` of one line."""
    try:
        yield
    except Exception as error:
        # What Ray's client raises, and what it hands on.
        kinds = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
        if not (isinstance(error, ConnectionError) or "grpc" in kinds):
            raise
        raise BadInput(
            f"the Ray cluster at {address} does not answer any more: {reason(error)}; what is done is kept, "
            "and the same command does the rest"
        ) from error


class Nodes:
    """What the nodes of a cluster have, by Ray's names of resources.

    A node that is lost is remembered: what fits it waits for it, as Ray does.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Mapping[str, Any]] = {}
        self.look()

    def look(self) -> None:
        """Note the nodes that are there now."""
        import ray

        nodes = ray.nodes()
        self._seen |= {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}

    @property
    def resources(self) -> list[Mapping[str, Any]]:
        """What each node has when it does nothing."""
        return list(self._seen.values())

    @property
    def cores(self) -> float:
        """The cores of all nodes together."""
        return float(sum(node.get("CPU", 0.0) for node in self._seen.values()))

    @property
    def has_gpus(self) -> bool:
        """Whether any node has a GPU."""
        return any(node.get("GPU", 0.0) for node in self._seen.values())
