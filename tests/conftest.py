"""What every test of the harness itself is held to: it reaches nothing beyond this machine."""

from __future__ import annotations

import gc
import ipaddress
import shutil
import socket
from pathlib import Path
from unittest.mock import patch

import hypothesis  # noqa: F401  # or its plugin imports it anew in every run within a run
import pytest

from superweight.model.devices import see_only
from superweight.pytest_plugin.xdist import asks_for_gpu

# One browser for all tests of a process: Playwright does not start twice in one.
from tests.helpers.browser import browser, visit  # noqa: F401


def pytest_configure(config):
    """Compute on the CPU where nobody asks for a GPU: these tests' figures and baselines are a CPU's."""
    asked = asks_for_gpu(config) or config.option.sw_model or config.option.sw_device != "auto"
    if not asked:
        see_only(())


# They compute with every matrix and input rounded.
ROUNDED = {"test_holding_out_the_activation_closes_the_gap", "test_holding_out_the_weights_lets_blocks_grow"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Leave C12 and C13 of the real model, half a minute of two, to `make check` and to long runs."""
    if config.option.sw_model or asks_for_gpu(config):
        return
    for item in items:
        if item.get_closest_marker("checkpoint") and item.originalname in ROUNDED:
            item.add_marker(pytest.mark.slow)


class ReachedOut(BaseException):
    """Raised where a test reaches beyond this machine; nothing that catches errors catches it."""


def is_here(host):
    """Tell whether a host name or address is this machine's own."""
    if host in (None, "", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _held(real, host_of):
    def call(*arguments, **named):
        host = host_of(*arguments)
        if not is_here(host):
            raise ReachedOut(f"a test reaches for {host}")
        return real(*arguments, **named)

    return call


def _host(connection, address, *_):
    return address[0] if connection.family in (socket.AF_INET, socket.AF_INET6) else None


@pytest.fixture(autouse=True)
def _this_machine_only(request):
    """Let the sockets of this process connect to this machine alone.

    Not those of tests on models that a user named, or that only a GPU runs: they are downloaded. The
    real model is brought by pip, in a process of its own.
    """
    if request.node.get_closest_marker("gpu") or "sw_entry" in request.fixturenames:
        yield
        return
    kind = socket.socket
    with (
        patch.object(kind, "connect", _held(kind.connect, _host)),
        patch.object(kind, "connect_ex", _held(kind.connect_ex, _host)),
        patch.object(socket, "getaddrinfo", _held(socket.getaddrinfo, lambda host, *_, **__: host)),
    ):
        yield


def pytest_collection_finish():
    """Keep what was imported out of the garbage collector's way: freeing a model walks through it all."""
    gc.collect()
    gc.freeze()
    # What tests make is small and many: looking through it every 700 objects takes longer than it frees.
    gc.set_threshold(20_000, 20, 20)


REPOSITORY = Path(__file__).parents[1]
CLAIMS = REPOSITORY / "tests" / "claims"


@pytest.fixture(scope="session")
def _imported():
    """Import what a check imports, once: pytester forgets what is first imported inside a run."""
    from superweight.checkpoints.model_ref import parse_model
    from superweight.claims.check import CheckRequest, run_check
    from superweight.claims.run_config import RunConfig

    run_check(CheckRequest(parse_model("tiny-planted"), None, "paper", RunConfig(device="cpu")))


@pytest.fixture
def project(pytester, monkeypatch, _imported):
    """Run pytest, in process, over a copy of the claims and their baselines."""
    monkeypatch.delenv("CI", raising=False)
    # Of a run that is ended pytest renders the source around every frame, unless told a style; here
    # those are four dozen, and nobody reads them.
    rendered = pytest.ExceptionInfo.getrepr
    brief = lambda caught, **how: rendered(caught, **({"style": "native"} | how))  # noqa: E731
    monkeypatch.setattr(pytest.ExceptionInfo, "getrepr", brief)
    shutil.copy(CLAIMS / "test_paper.py", pytester.path)
    shutil.copytree(CLAIMS / "baselines", pytester.path / "baselines")
    return pytester


@pytest.fixture
def run(project):
    """Run the claims on given options; -k narrows them down."""

    def run(*options, claims=""):
        chosen = ["-k", claims] if claims else []
        return project.runpytest_inprocess("-p", "no:cacheprovider", *chosen, *options)

    return run
