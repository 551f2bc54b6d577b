"""Gains of norms behind the MLP in files: read by name, and held to the base's in a release."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.core.coordinates import Coordinate
from superweight.release.gain_checks import NAME, compare_gains
from superweight.release.limits import Limits
from superweight.release.result import DAMAGED, KEPT
from superweight.release.static_checks import compare_static
from tests.model.families import FAMILIES

NORM = "post_feedforward_layernorm"
TENSOR = f"model.layers.1.{NORM}.weight"


@pytest.fixture
def base(planted, tmp_path):
    """A tiny Gemma 3 whose norm in block 1 has one gain of 700 where the others are 4."""
    subject = FAMILIES["Gemma 3"].build(planted)
    folder = tmp_path / "base"
    subject.model.save_pretrained(folder)
    change(folder, folder, lambda gains: gains.fill_(4.0).index_fill_(0, torch.tensor([17]), 700.0))
    return folder


def change(source, target, how):
    """Copy a folder with the norm's gains changed."""
    tensors = load_file(source / "model.safetensors")
    tensors[TENSOR] = how(tensors[TENSOR].clone())
    target.mkdir(exist_ok=True)
    (target / "config.json").write_text((source / "config.json").read_text())
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def one_at(value):
    def how(gains):
        gains[17] = value
        return gains

    return how


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        (700.0, KEPT, "all 1 outstanding gains are unchanged"),
        (690.0, KEPT, r"\[1, post_feedforward_layernorm, 17\] went from 700 to 690 \(1.43% off\)"),
        (0.0, DAMAGED, "from 700 to 0: it was lost"),
        (float("nan"), DAMAGED, "it was lost"),
        (4.0, DAMAGED, "went from 700 to 4"),
        (-700.0, DAMAGED, "went from 700 to -700"),
    ],
)
def test_a_release_keeps_the_outstanding_gains_or_is_damaged(base, tmp_path, value, status, words):
    """Unchanged, rounded, pruned, broken, made ordinary, turned around."""
    release = change(base, tmp_path / "release", one_at(value))
    (check,) = compare_gains(open_checkpoint(base), open_checkpoint(release), Limits())
    assert status == check.status
    assert (None if value != value else value) == check.figures["release"]
    if value in (700.0, 690.0, 4.0, -700.0):
        assert abs(value - 700) / 700 / Limits().value_error == pytest.approx(check.excess)
    assert NAME == check.name
    assert re.search(words, check.reason)


def test_a_gain_that_was_below_zero_and_is_nothing_was_lost(base, tmp_path):
    """Whichever sign it had."""
    below = change(base, tmp_path / "below", one_at(-700.0))
    release = change(base, tmp_path / "release", one_at(0.0))
    (check,) = compare_gains(open_checkpoint(below), open_checkpoint(release), Limits())
    assert "it was lost" in check.reason


def test_a_norm_that_became_shorter_is_not_compared_by_its_gains(base, tmp_path):
    """The channel is gone: the shapes say so elsewhere."""
    for length in (10, 17, 18):
        release = change(base, tmp_path / str(length), lambda gains, length=length: gains[:length].clone())
        compared = compare_gains(open_checkpoint(base), open_checkpoint(release), Limits())
        assert (length == 18) is bool(compared)


def test_the_check_is_one_of_those_of_the_files(base, tmp_path):
    """Among the static checks of a release; a base without outstanding gains has none."""
    release = change(base, tmp_path / "release", one_at(0.0))
    names = [check.name for check in static(base, release) if check.status == DAMAGED]
    assert NAME in names
    flat = change(base, tmp_path / "flat", lambda gains: gains.fill_(4.0))
    assert NAME not in [check.name for check in static(flat, flat)]


def static(base, release):
    place = [Coordinate(1, 17, 3)]
    return compare_static(open_checkpoint(base), open_checkpoint(release), place, Limits())


def test_read_finds_a_gain_by_its_norm(superweight, base):
    """The stored number, with the tensor that holds it; in JSON by layer, norm and channel."""
    result = superweight("read", str(base), "--at", f"1,{NORM},17", "--at", "1,17,3", "--json", "-")
    weight, gain = json.loads(result.stdout)["scalars"]
    assert (1, 17, 3) == (weight["layer"], weight["row"], weight["col"])
    assert (1, NORM, 17, 700.0) == tuple(gain[key] for key in ("layer", "norm", "channel", "value"))
    assert TENSOR == gain["tensor"]
    line = superweight("read", str(base), "--at", f"1,{NORM},17").stdout
    assert f"[1, {NORM}, 17] = 700.0 (F32) in {TENSOR}" in line


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("1,no_norm,17", "has no norm 'no_norm' in block 1; it has .*post_feedforward_layernorm"),
        (f"9,{NORM},17", "in block 9; it has none"),
        (f"1,{NORM},32", "lies outside the 32 gains"),
    ],
)
def test_a_gain_that_is_not_there_is_bad_input(superweight, base, place, words):
    """With what there is instead."""
    result = superweight("read", str(base), "--at", place)
    assert 4 == result.exit_code
    assert re.search(words, result.stderr)
