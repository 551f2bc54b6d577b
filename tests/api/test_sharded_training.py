"""Super weights watched while a model is sharded over two processes: both read what one alone reads."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import local_path
from tests.api import sharded_worker

REPOSITORY = Path(__file__).parents[2]
FSDP = ("fsdp2", "fsdp1", "fsdp1-orig", "fsdp2+lora", "fsdp1-orig+lora")
ZERO = ("zero3", "zero3+lora")


@pytest.fixture(scope="module")
def folder():
    pytest.importorskip("peft")
    return str(local_path(resolve("tiny-planted")))


def told(folder, store, kinds):
    """Return what each of the two ranks read, by kind."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.api.sharded_worker", str(rank), store, folder, *kinds],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=400) for process in started]
    finally:
        for process in started:
            process.kill()
    lines = [[line for line in output.splitlines() if line.startswith("READ")] for output, _ in outputs]
    assert all(lines), outputs
    return [json.loads(found[-1].removeprefix("READ")) for found in lines]


@pytest.fixture(scope="module")
def fsdp(folder, tmp_path_factory):
    return told(folder, str(tmp_path_factory.mktemp("fsdp") / "store"), FSDP)


@pytest.fixture(scope="module")
def zero(folder, tmp_path_factory):
    pytest.importorskip("deepspeed")
    return told(folder, str(tmp_path_factory.mktemp("zero") / "store"), ZERO)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*FSDP, *ZERO])
def test_a_scalar_of_one_rank_is_told_to_both(kind, folder, request):
    """Value, drift and activation before and after three steps, as without a second process."""
    ranks = request.getfixturevalue("zero" if kind in ZERO else "fsdp")
    alone = sharded_worker.readings(folder, "alone+lora" if "lora" in kind else "alone")
    expected = [pytest.approx(row, rel=2e-5, abs=1e-6) for row in alone]
    assert [expected, expected] == [rank[kind] for rank in ranks]
    values = [row[f"superweight/{sharded_worker.AT}/value"] for row in alone]
    # Each step moves the scalar by more than what is let pass above: an old value would show.
    assert min(abs(b - a) for a, b in pairwise(values)) > 2e-4
