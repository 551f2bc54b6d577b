"""CUDA devices: how the caller's are shared out among workers, and how they are told to compute."""

from __future__ import annotations

import os

import pytest
import torch

import superweight as sw
from superweight.checkpoints.registry import resolve
from superweight.claims.evidence import Evidence
from superweight.claims.paper.pruning import judge
from superweight.core.coordinates import Coordinate
from superweight.measurement.corpus import BUILTIN
from superweight.model.devices import (
    VISIBLE,
    Device,
    callers_devices,
    described,
    gib,
    make_deterministic,
    share,
)
from superweight.model.edits import Scale
from superweight.model.loading import load


@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        ("3,5", ("3", "5")),
        ("GPU-ab, GPU-cd", ("GPU-ab", "GPU-cd")),
        ("", ()),
        ("2,-1,4", ("2",)),
        ("0", ("0",)),
    ],
    ids=["numbers", "names", "none", "ended by -1", "one"],
)
def test_the_callers_devices_are_those_of_the_variable(monkeypatch, visible, devices):
    """CUDA_VISIBLE_DEVICES is read as CUDA reads it."""
    monkeypatch.setenv(VISIBLE, visible)
    assert devices == callers_devices()


@pytest.mark.parametrize(
    ("devices", "workers", "shares"),
    [
        ("35", 2, ["3", "5"]),
        ("0123", 2, ["02", "13"]),
        ("012", 2, ["02", "1"]),
        ("7", 3, ["7", "7", "7"]),
        ("01", 3, ["0", "1", "0"]),
        ("", 2, ["", ""]),
    ],
    ids=["one each", "two each", "one left over", "one for all", "too few", "none"],
)
def test_devices_are_shared_out(devices, workers, shares):
    """Each worker has devices of its own where there are enough, and one with others where not."""
    assert [tuple(own) for own in shares] == [share(devices, worker, workers) for worker in range(workers)]


@pytest.fixture
def _settings(monkeypatch):
    """Put torch's settings back: other tests compute with them."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    matmul = torch.backends.cuda.matmul
    before = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        matmul.allow_fp16_reduced_precision_reduction,
        matmul.allow_bf16_reduced_precision_reduction,
    )
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    matmul.allow_fp16_reduced_precision_reduction = before[2]
    matmul.allow_bf16_reduced_precision_reduction = before[3]
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("_settings")
def test_settings_are_stated_as_they_are():
    """Before and after settling, the header says what torch will do."""
    device = [Device("X", 2 * 2**30, 2**30)]
    torch.backends.cudnn.allow_tf32 = True
    assert (
        "X (1.0 GiB of 2.0 GiB free); TF32 on, deterministic algorithms off, CUBLAS_WORKSPACE_CONFIG unset"
        == described(device)
    )
    make_deterministic()
    assert (
        "X (1.0 GiB of 2.0 GiB free); TF32 off, deterministic algorithms on, CUBLAS_WORKSPACE_CONFIG :4096:8"
        == described(device)
    )


def test_no_device_is_said():
    """A header without devices says so."""
    assert "no CUDA device" == described([])
    assert "79.1 GiB" == gib(Device("H100", 84_934_656_000, 0).total)


@pytest.mark.usefixtures("_settings")
def test_a_precision_set_for_training_changes_no_verdict():
    """Products are of float32 in a process in which "medium" was asked for, before a load and after it."""
    evidence = Evidence(load(resolve("tiny-planted")), BUILTIN)
    wanted = evidence.verdict(judge)
    torch.set_float32_matmul_precision("medium")
    subject = load(resolve("tiny-planted"))
    assert "highest" == torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    assert wanted.criteria == Evidence(subject, BUILTIN).verdict(judge).criteria


@pytest.mark.usefixtures("_settings")
def test_a_precision_set_for_training_changes_no_measurement(planted):
    """Nor what a script measures by itself, on a model that it loaded before."""
    edits = {"less": [Scale(Coordinate(1, 41, 23), 0.8)]}
    wanted = sw.measure(planted, edits)["less"].nll
    torch.set_float32_matmul_precision("medium")
    assert (wanted == sw.measure(planted, edits)["less"].nll).all()
