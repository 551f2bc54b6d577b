"""How a run with ``-m gpu`` is shared out among workers, and what becomes of models that are not there.

The machines are stand-ins: torch is made to report CUDA devices that are not there.
"""

from __future__ import annotations

import pytest
import torch

from superweight.model import loading
from superweight.pytest_plugin import xdist

# In place of torch, so that three processes a run need not import it.
FAKE_CUDA = """
import sys
from types import SimpleNamespace as Having
matmul = Having(allow_tf32=True)
steady = []
sys.modules["torch"] = Having(
    cuda=Having(
        is_available=lambda: True,
        device_count=lambda: {count},
        mem_get_info=lambda index: (80 * 2**30, 80 * 2**30),
        get_device_name=lambda index: "Stand-in",
    ),
    backends=Having(cudnn=Having(allow_tf32=True), cuda=Having(matmul=matmul)),
    set_float32_matmul_precision=lambda name: setattr(matmul, "allow_tf32", name != "highest"),
    use_deterministic_algorithms=lambda mode, warn_only: steady.append(mode),
    are_deterministic_algorithms_enabled=lambda: bool(steady),
)
"""
# Each test leaves behind who ran it, and what that worker sees.
WITNESS = """
import os, pytest
from pathlib import Path

def witness(name):
    worker = os.environ.get("PYTEST_XDIST_WORKER", "none")
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
    Path(os.environ["WITNESS"], f"{name}--{worker}--{seen}").touch()

@pytest.mark.gpu
@pytest.mark.parametrize("number", range(6))
def test_on_gpu(number):
    witness(f"gpu{number}")

def test_of_a_model(sw_entry):
    witness(sw_entry.name.replace("/", "_"))
"""


@pytest.fixture
def machine(pytester, monkeypatch, tmp_path):
    """Run the witnesses on a machine with so many GPUs; return (test, worker, seen) of each."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("WITNESS", str(tmp_path))

    def run(*options, gpus, visible=None):
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        pytester.makeconftest(FAKE_CUDA.format(count=gpus))
        pytester.makepyfile(test_witness=WITNESS)
        # Plugins that no witness uses, hypothesis above all, take most of a process's start.
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        plugins = ("-p", "no:cacheprovider", "-p", "xdist", "-p", "pytest_superweight")
        result = pytester.runpytest_subprocess(*plugins, *options)
        return result, sorted(tuple(path.name.split("--")) for path in tmp_path.iterdir())

    return run


def workers(rows):
    return {worker for _, worker, _ in rows}


def test_on_one_gpu_one_worker_runs_all_gpu_tests(machine):
    """Two workers, one GPU: grouping keeps every gpu test on one of them, under the pinned xdist."""
    result, rows = machine("-m", "gpu", "-n2", "--dist", "loadgroup", gpus=1)
    assert 0 == result.ret
    assert 6 + 24 == len(rows)
    assert 1 == len(workers(rows))
    assert {"0"} == {seen for *_, seen in rows}


def test_tests_that_need_no_gpu_are_spread(machine):
    """It is the group that keeps tests together: models that run anywhere go to both workers."""
    _, rows = machine("-k", "of_a_model", "-n2", "--dist", "loadgroup", gpus=1)
    assert (4, 2) == (len(rows), len(workers(rows)))


def test_each_worker_has_a_gpu_of_its_own(machine):
    """Two workers, two GPUs of the caller's list: each sees one, by the caller's name for it."""
    result, rows = machine("-m", "gpu", "-n2", "--dist", "loadgroup", gpus=2, visible="3,5")
    assert 0 == result.ret
    assert {("gw0", "3"), ("gw1", "5")} == {(worker, seen) for _, worker, seen in rows}


def test_other_ways_to_distribute_are_refused(machine):
    """Under plain -n each worker would load every model."""
    result, rows = machine("-m", "gpu", "-n2", gpus=1)
    assert (pytest.ExitCode.USAGE_ERROR, []) == (result.ret, rows)
    result.stderr.fnmatch_lines(["*needs --dist loadgroup*"])


def test_the_header_states_devices_and_settings(machine):
    """What computes, how much is free, and that TF32 is off and algorithms are deterministic."""
    result, _ = machine("-m", "gpu", gpus=1)
    result.stdout.fnmatch_lines(
        ["super weights: Stand-in (80.0 GiB of 80.0 GiB free); TF32 off, deterministic*on, *4096:8"]
    )


CLAIM = ("-m", "gpu", "-k", "known_place and llama-7b", "-rs")


@pytest.fixture
def claims(project, monkeypatch, tmp_path):
    """Run one claim on a model that is not here, on a stand-in GPU, without any hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Stand-in")
    for module in (xdist, loading):
        monkeypatch.setattr(module, "make_deterministic", lambda: None)

    def run(*options, free=80 * 2**30):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free, free))
        return project.runpytest_inprocess("-p", "no:cacheprovider", *CLAIM, *options)

    return run


def test_a_model_that_does_not_fit_is_skipped_with_the_numbers(claims):
    """Before anything of it is fetched: what it takes, what is needed, what is free. Under CI too."""
    result = claims(free=8 * 2**30)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(
        ["SKIPPED*huggyllama/llama-7b: its weights take 12.6 GiB, so 15.8 GiB are needed*free are 8.0 GiB*"]
    )


def test_a_missing_model_is_skipped_with_the_reason(claims):
    """Locally, a model that cannot be had is a skip that says why."""
    result = claims()
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(
        ["SKIPPED*huggyllama/llama-7b is not in the hub's cache, and HF_HUB_OFFLINE*"]
    )


def test_a_missing_model_is_an_error_under_ci(claims, monkeypatch):
    """A gate that tested nothing is no pass."""
    monkeypatch.setenv("CI", "true")
    result = claims()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*HF_HUB_OFFLINE is set*"])
    result.stdout.no_fnmatch_line("*plugin/models.py*")  # no traceback through our own code


def test_a_model_that_was_named_and_is_missing_ends_the_run(claims):
    """Like a wrong option: exit code 4, locally and under CI."""
    result = claims("--sw-model", "huggyllama/llama-7b")
    assert pytest.ExitCode.USAGE_ERROR == result.ret


def test_the_base_of_a_model_that_was_named_is_asked_for_like_it(claims):
    """The instruct model's base is scanned first: where it is missing, naming the one ends the run."""
    result = claims("--sw-model", "mistralai/Mistral-7B-Instruct-v0.1", "-k", "known_place")
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    assert "mistralai/Mistral-7B-v0.1 is not in the hub's cache" in result.stdout.str() + result.stderr.str()
