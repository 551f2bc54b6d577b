"""Accelerators, CUDA devices above all: which of them a process sees and shares, and how they compute."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

VISIBLE = "CUDA_VISIBLE_DEVICES"
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@dataclass(frozen=True)
class Device:
    """One CUDA device as the driver reports it; sizes in bytes."""

    name: str
    total: int
    free: int


def callers_devices() -> tuple[str, ...]:
    """Return the devices that the caller lets this run see, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        names = (name.strip() for name in visible.split(","))
        # To CUDA, a name that is none ends the list.
        return tuple(takewhile(lambda name: name and not name.startswith("-"), names))
    import torch

    return tuple(map(str, range(torch.cuda.device_count())))


def share(devices: Sequence[str], worker: int, workers: int) -> tuple[str, ...]:
    """Return the devices of one of several workers: its own, or where they are too few, a shared one."""
    if not devices:
        return ()
    return tuple(devices[worker::workers] if workers <= len(devices) else (devices[worker % len(devices)],))


def see_only(devices: Sequence[str]) -> None:
    """Let this process see ``devices`` and no others; to be called before CUDA is initialised."""
    os.environ[VISIBLE] = ",".join(devices)


def multiply_in_float32() -> None:
    """Let products of float32 matrices be computed in float32, whatever was set for another computation.

    Training scripts ask for "medium" or "high", with which a CPU that has AMX or AVX512-BF16 rounds the
    operands to bfloat16: a scalar of 4.7 then computes with 4.70459.
    """
    import torch

    torch.set_float32_matmul_precision("highest")


def make_deterministic() -> None:
    """Make CUDA compute the same numbers each time, in the precision that is asked for.

    TF32 and reduced-precision sums are off, and operations are deterministic where they can be.
    cuBLAS reads its variable when it is first used, so this comes before any computing.
    """
    import torch

    os.environ.setdefault(_WORKSPACE, ":4096:8")
    multiply_in_float32()
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    # An operation without a deterministic form warns; refusing it would refuse mixtures of experts.
    torch.use_deterministic_algorithms(True, warn_only=True)


def present() -> tuple[Device, ...]:
    """Return the CUDA devices that this process sees; none where there is no CUDA."""
    import torch

    if not torch.cuda.is_available():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Device(torch.cuda.get_device_name(index), total, free))
    return tuple(found)


def accelerator() -> str | None:
    """Return the kind of accelerator that torch computes on here (cuda, mps, xpu, npu), or None."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return None if found is None else found.type


def described(devices: Sequence[Device]) -> str:
    """Return what a run's header says of its devices and of how they compute."""
    import torch

    if not devices:
        return "no CUDA device"
    each = ", ".join(f"{item.name} ({gib(item.free)} of {gib(item.total)} free)" for item in devices)
    tf32 = "on" if torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32 else "off"
    steady = "on" if torch.are_deterministic_algorithms_enabled() else "off"
    workspace = os.environ.get(_WORKSPACE, "unset")
    return f"{each}; TF32 {tf32}, deterministic algorithms {steady}, {_WORKSPACE} {workspace}"


def gib(size: int) -> str:
    """Return a size in bytes as a person reads it."""
    return f"{size / 2**30:.1f} GiB"
