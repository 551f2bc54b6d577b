"""The gate on the real model: the harness's own conversion, and a damage that has no coordinate."""

from __future__ import annotations

import pytest

from harness.conversion import converted_copy
from harness.coordinates import Coordinate
from harness.registry import resolve
from harness.release.comparing import Request, compare
from harness.release.comparison import ACTIVATIONS, STATIC
from harness.sources import fetch

from .releases import DAMAGED, make

NAME = "smollm2-135m-instruct-q4_1"
PLACES = [Coordinate(11, 507, 1229), Coordinate(11, 507, 1487)]

pytestmark = pytest.mark.checkpoint


@pytest.fixture(scope="module")
def copy():
    return converted_copy(fetch(resolve(NAME)).path)


def test_the_safetensors_copy_holds_what_the_gguf_holds(copy):
    """Both super weights are the dequantised ones exactly, and rank first and second in their matrix."""
    result = compare(Request(NAME, str(copy), depths=(STATIC,)))
    assert ("kept", ()) == (result.verdict, result.reasons)
    figures = [check.figures for check in result.checks if check.name.startswith("super weight")]
    assert [0.0, 0.0] == [item["relative_error"] for item in figures]
    assert {1, 2} == {item["release_rank"] for item in figures}


def test_int4_with_one_block_a_tensor_is_damage_that_the_files_do_not_show(copy, tmp_path):
    """The super weights stay within their limit; the activation that they made is gone all the same."""
    change, _ = DAMAGED["int4, one block a tensor"]
    release = make(copy, tmp_path / "int4", change, PLACES)
    result = compare(Request(str(copy), str(release), depths=(STATIC, ACTIVATIONS)))
    assert "damaged" == result.verdict
    assert result.reasons[0].startswith("the super activation on channel 507, token 0 is gone")
    assert {"kept"} == {check.status for check in result.checks if check.depth == STATIC}
