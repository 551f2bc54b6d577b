"""Each thing that the gate guards, broken on purpose: the run must turn red and say why."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from superweight.checkpoints import registry
from superweight.checkpoints.registry import PublishedScalar
from superweight.core.coordinates import Coordinate
from superweight.detection import scan as scan_module
from superweight.measurement import batched_ablation
from superweight.model import edits
from superweight.model.architecture import Architecture
from tests.helpers.checkpoint_files import copy_checkpoint

MODEL = ("--sw-model", "tiny-planted")
DOWN_PROJ = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def altered(tmp_path):
    """Copy the planted checkpoint with its super weight's 16 bits changed."""

    def copy(change):
        target = tmp_path / "altered"
        copy_checkpoint("tiny-planted", target)
        file = target / "model.safetensors"
        raw = bytearray(file.read_bytes())
        header_length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + header_length])
        begin = 8 + header_length + header[DOWN_PROJ]["data_offsets"][0] + 2 * (41 * 160 + 23)
        stored = int.from_bytes(raw[begin : begin + 2], "little")
        raw[begin : begin + 2] = change(stored).to_bytes(2, "little")
        file.write_bytes(raw)
        return f"tiny-planted={target}"

    return copy


@pytest.mark.parametrize("bit", [0, 6, 7, 15], ids=["last", "first of mantissa", "exponent", "sign"])
def test_one_flipped_bit_of_the_super_weight_is_found(run, altered, bit):
    """Any single bit: the message says which scalar changed, from what, to what, and what next."""
    result = run("--sw-model", altered(lambda stored: stored ^ (1 << bit)), claims="known_place")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*C1 on tiny-planted*", "*next *"])
    said = result.stdout.str()
    assert "value of [1, 41, 23]: published 4.00000000, found" in said or "is published but not found" in said


def test_a_pruned_super_weight_is_found(run, altered):
    """A zeroed scalar is missing by name."""
    result = run("--sw-model", altered(lambda _: 0), claims="known_place")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*[[]1, 41, 23[]] is published but not found*"])


@pytest.mark.parametrize("moved", [(2, 41, 23), (1, 42, 23), (1, 41, 24), (1, 23, 41)])
def test_a_moved_registry_coordinate_is_found(run, monkeypatch, moved):
    """Off by one in block, row or column, or row and column swapped: both places are named."""
    known = dict(registry.load_registry())
    known["tiny-planted"] = replace(
        known["tiny-planted"], super_weights=(PublishedScalar(Coordinate(*moved)),)
    )
    monkeypatch.setattr(registry, "_read", lambda path: known)
    result = run(*MODEL, claims="known_place")
    result.assert_outcomes(failed=1)
    said = result.stdout.str()
    assert f"{Coordinate(*moved)} is published but not found" in said
    assert "[1, 41, 23] is found but not published" in said


@contextmanager
def does_nothing(*_, **__):
    """Stand in for a change that is never made."""
    yield


def test_a_prune_that_does_nothing_is_found(run, monkeypatch):
    """The write is skipped: the probe sees the old value and every claim that edits is red."""
    monkeypatch.setattr(edits, "_written", does_nothing)
    result = run(*MODEL)
    assert 1 == result.ret
    result.stdout.fnmatch_lines(["*scaling [[]1, 41, 23[]] by 0 did not take effect*"])


def test_an_edit_without_its_proof_is_found(run, monkeypatch):
    """Even with the proof gone too, the verdicts notice that nothing was pruned."""
    monkeypatch.setattr(edits, "_written", does_nothing)
    monkeypatch.setattr(edits, "_prove", lambda *_, **__: None)
    assert 1 == run(*MODEL, claims="perplexity or known_place or exact").ret


def test_a_restore_that_does_nothing_is_found(run, monkeypatch):
    """The scalar stays pruned: the probe on the way out notices."""

    @contextmanager
    def never_undone(projection, rows, cols, factors):
        stored = projection.weight()[rows, cols].clone()
        projection.weight()[rows, cols] = stored * factors
        yield

    monkeypatch.setattr(edits, "_written", never_undone)
    result = run(*MODEL, claims="exact")
    assert 1 == result.ret
    result.stdout.fnmatch_lines(["*did not bring back the value it had*"])


def test_a_hold_that_does_nothing_is_found(run, monkeypatch):
    """Without the hold nothing is won back, and the verdict changes."""
    monkeypatch.setattr(batched_ablation, "_restore", lambda *_: lambda *_: None)
    result = run(*MODEL, claims="restoring_the_activation")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*status: was *supported*, is *refuted*"])


BESIDE = pytest.mark.parametrize(
    ("rows", "cols"), [(1, 0), (0, 1)], ids=["the row below", "the column beside"]
)


@BESIDE
def test_a_prune_that_lands_beside_its_scalar_is_found(run, monkeypatch, rows, cols):
    """The scalar that was meant still computes: the probe says so before anything is measured."""
    real = edits._written
    monkeypatch.setattr(
        edits,
        "_written",
        lambda projection, row, col, factors: real(projection, row + rows, col + cols, factors),
    )
    result = run(*MODEL, claims="exact")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*scaling [[]1, 41, 23[]] by 0 did not take effect*"])


@BESIDE
def test_a_scale_that_lands_beside_its_scalar_is_found(run, monkeypatch, rows, cols):
    """So it is where many conditions ride in one pass, each on rows of its own."""
    real = batched_ablation._by_channel
    monkeypatch.setattr(
        batched_ablation,
        "_by_channel",
        lambda scales: {
            row + rows: {col + cols: factor for col, factor in factors.items()}
            for row, factors in real(scales).items()
        },
    )
    result = run(*MODEL, claims="perplexity")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*computes with * where * was meant*"])


def test_an_edit_that_lands_a_block_later_is_found(run, monkeypatch):
    """Whoever asks for a block is given the next one: what is pruned there removes no activation."""
    real = Architecture.projection
    later = lambda self, place: real(self, replace(place, layer=(place.layer + 1) % 4))  # noqa: E731
    monkeypatch.setattr(Architecture, "projection", later)
    result = run(*MODEL, claims="removes_the_super_activation")
    assert 1 == result.parseoutcomes()["failed"]
    result.stdout.fnmatch_lines(["*C5 on tiny-planted*", "*status: was *supported*, is *refuted*"])


def named(*coordinates):
    """Make a detector name these scalars instead of what it found."""

    def detector(found):
        weight = found.super_weights[0]
        return replace(
            found, super_weights=tuple(replace(weight, coordinate=Coordinate(*at)) for at in coordinates)
        )

    return detector


DETECTORS = {
    "nothing": lambda found: replace(found, super_activations=(), super_weights=()),
    "the neighbour": named((1, 41, 24)),
    "one of the next block": named((2, 41, 23)),
    "everything in its row": lambda found: named(*((1, 41, col) for col in range(160)))(found),
    "everything in its column": lambda found: named(*((1, row, 23) for row in range(64)))(found),
}


@pytest.mark.parametrize("instead", DETECTORS)
def test_a_detector_that_returns_something_else_is_found(run, monkeypatch, instead):
    """Whatever it returns instead of the super weight, the published place disagrees."""
    real = scan_module.detect
    monkeypatch.setattr(scan_module, "detect", lambda trace: DETECTORS[instead](real(trace)))
    result = run(*MODEL, claims="known_place")
    assert 1 == result.parseoutcomes()["failed"]
    result.stdout.fnmatch_lines(["*C1 on tiny-planted*", "*refuted: number of differences*"])


@pytest.mark.checkpoint
def test_a_detector_that_returns_the_canceller_is_found(run, monkeypatch):
    """The late scalar that takes the activation away: of the real model, since no tiny one has any."""
    real = scan_module.detect
    monkeypatch.setattr(scan_module, "detect", lambda trace: by_canceller(real(trace)))
    result = run("--sw-model", "smollm2-135m-instruct-q4_1", claims="known_place")
    assert 1 == result.parseoutcomes()["failed"]
    result.stdout.fnmatch_lines(["*[[]28, 507, 678[]] is found but not published*"])


def by_canceller(found):
    """Name the first canceller as the one super weight."""
    canceller, weight = found.cancellers[0], found.super_weights[0]
    return replace(found, super_weights=(replace(weight, coordinate=canceller.coordinate),))


def baseline(project, claim="C3"):
    return Path(project.path, "baselines", "tiny-planted", "cpu-float32", f"{claim}.json")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: "", "not readable"),
        (lambda text: "{}", "not readable"),
        (lambda text: text[: len(text) // 2], "not readable"),
        (lambda text: text.replace("tiny-planted", "tiny-tuned", 1), "model: was"),
        (lambda text: text.replace('"claim": "C3"', '"claim": "C4"'), "claim: was"),
        (lambda text: text.replace('"supported"', '"refuted"', 1), "status: was"),
        (lambda text: text.replace('"threshold": 10.0', '"threshold": 1.0'), "threshold: was"),
    ],
    ids=["empty", "hollow", "truncated", "another model", "another claim", "status", "threshold"],
)
def test_a_spoiled_baseline_is_found(run, project, spoil, said):
    """A baseline that was damaged, swapped or edited by hand never passes."""
    path = baseline(project)
    path.write_text(spoil(path.read_text()))
    result = run(*MODEL, claims="perplexity")
    result.assert_outcomes(failed=1)
    assert said in result.stdout.str()


@pytest.mark.parametrize("within", [1e9, float("nan"), -1.0])
def test_a_widened_tolerance_is_found(run, project, within):
    """A tolerance that would pass everything is a difference by itself."""
    path = baseline(project)
    stored = json.loads(path.read_text())
    stored["evidence"]["intact_perplexity"]["within"] = within
    path.write_text(json.dumps(stored))
    run(*MODEL, claims="perplexity").assert_outcomes(failed=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_with_broken_numbers_is_refused(run, tmp_path, value):
    """NaN or infinity in one tensor is damage that was seen: named, before anything is measured."""
    target = tmp_path / "broken"
    copy_checkpoint("tiny-planted", target)
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    tensors = load_torch(target / "model.safetensors")
    tensors[DOWN_PROJ][0, 0] = value
    save_torch(tensors, target / "model.safetensors", metadata={"format": "pt"})
    result = run("--sw-model", f"tiny-planted={target}", claims="known_place")
    assert pytest.ExitCode.TESTS_FAILED == result.ret
    assert f"tensor {DOWN_PROJ} holds NaN or infinity" in result.stdout.str() + result.stderr.str()
