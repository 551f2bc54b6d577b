"""A model that no test at hand needs is kept where it is small, and freed where it is not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from superweight.checkpoints.model_ref import parse_model
from superweight.pytest_plugin import models
from superweight.pytest_plugin.models import acquire, release
from superweight.pytest_plugin.xdist import share_cores

PLAIN = parse_model("tiny-plain")


@pytest.fixture
def config():
    option = SimpleNamespace(
        sw_model=[PLAIN.spec], sw_base=None, sw_device="cpu", sw_dtype="auto", sw_trust=[]
    )
    return SimpleNamespace(stash=pytest.Stash(), option=option)


def weights(subject):
    return sum(tensor.numel() for tensor in subject.model.parameters())


def test_a_small_model_is_loaded_once(config):
    """Whoever asks for it again gets the one that was given back; meanwhile it is nobody else's."""
    first = acquire(config, PLAIN)
    assert acquire(config, PLAIN) is not first
    release(config, first)
    assert acquire(config, PLAIN) is first
    assert weights(first) > 0


def test_a_large_model_is_freed(config, monkeypatch):
    """Its memory is given back at once, and the next who asks loads it."""
    monkeypatch.setattr(models, "KEPT_BYTES", 1000)
    first = acquire(config, PLAIN)
    release(config, first)
    assert 0 == weights(first)
    assert weights(acquire(config, PLAIN)) > 0


def test_models_are_kept_while_they_fit_together(config, monkeypatch):
    """The second does not fit beside the first, and is freed; the first is still there."""
    first, second = acquire(config, PLAIN), acquire(config, parse_model("tiny-planted"))
    size = sum(tensor.nbytes for tensor in first.model.parameters())
    monkeypatch.setattr(models, "KEPT_BYTES", int(1.5 * size))
    release(config, first)
    release(config, second)
    assert 0 == weights(second)
    assert acquire(config, PLAIN) is first


@pytest.mark.parametrize(
    ("workers", "cores", "threads"),
    [("2", 8, [4]), ("3", 8, [2]), ("16", 8, [1]), ("1", 8, []), (None, 8, []), ("2", None, [1])],
)
def test_workers_share_the_cores(monkeypatch, workers, cores, threads):
    """Each worker of xdist computes on its part of them, on one at least; alone, a run keeps all."""
    given = []
    monkeypatch.setattr("torch.set_num_threads", given.append)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.delenv("PYTEST_XDIST_WORKER_COUNT", raising=False)
    if workers is not None:
        monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", workers)
    share_cores()
    assert threads == given
