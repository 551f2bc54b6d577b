"""Accelerators other than CUDA, by stand-ins: none of them was at hand, and nothing was run on one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from superweight.core.environment import DEVICES
from superweight.core.errors import BadInput
from superweight.model import loading
from superweight.model.devices import accelerator

OTHERS = ("mps", "xpu", "npu")


@pytest.fixture
def machine(monkeypatch):
    """Let torch report an accelerator of some kind, or none."""

    def with_(kind):
        found = None if kind is None else SimpleNamespace(type=kind)
        monkeypatch.setattr(
            torch.accelerator, "current_accelerator", lambda check_available: found if check_available else 1
        )

    return with_


# torch knows the name npu where torch_npu, which brings it, is installed.
@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_an_accelerator_that_is_there_is_taken(machine, kind):
    """By its name; weights go there as a whole, in the checkpoint's own dtype."""
    assert kind in DEVICES
    machine(kind)
    assert kind == accelerator()
    where = loading._device(kind)
    assert torch.device(kind) == where
    assert {"device_map": {"": where}} == loading._layout(where, 1e9, offload=True)
    assert "auto" == loading._dtype("auto", where, SimpleNamespace(), unpacked=False)


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("other", [None, "cuda"])
def test_one_that_is_not_there_is_refused_in_one_line(machine, kind, other):
    """With what torch sees instead, and what to give."""
    machine(other)
    with pytest.raises(BadInput) as refused:
        loading._device(kind)
    seen = "no accelerator" if other is None else f"only {other}"
    assert str(refused.value) == (
        f"device {kind} was asked for, but torch sees {seen} here; give --device auto or cpu"
    )


def test_none_is_taken_without_being_asked_for(machine, monkeypatch):
    """Baselines lie by device: auto is cuda where there is one, else the CPU."""
    machine("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch.device("cpu") == loading._device("auto")


@pytest.mark.parametrize("kind", OTHERS)
def test_the_command_refuses_it_with_exit_4(superweight, machine, kind):
    """One line, nothing half-done."""
    machine(None)
    result = superweight("scan", "tiny-planted", "--device", kind)
    assert 4 == result.exit_code
    assert f"device {kind} was asked for, but torch sees no accelerator here" in result.stderr
