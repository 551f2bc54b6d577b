"""The pruned copy that rides along in the first pass shows what a second pass would."""

from __future__ import annotations

from dataclasses import replace

import accelerate
import pytest
import torch

from superweight.checkpoints.registry import resolve
from superweight.core.coordinates import Coordinate
from superweight.detection import scan as scan_module
from superweight.detection import speculative
from superweight.detection.detect import detect
from superweight.detection.run_trace import trace
from superweight.detection.scan import MADE_AGAIN, SUPPRESSED, scan
from superweight.detection.speculative import SpeculativePruning
from superweight.model.edits import Prune, edited
from superweight.model.loading import load
from superweight.model.projections import LinearProjection
from tests.helpers.live_models import set_scalars

TEXT = "The bridge was closed."
PLACE = Coordinate(1, 41, 23)


def foreseen_in(subject):
    with speculative.speculative_pruning(subject) as foresight:
        intact = trace(subject, TEXT, foresight.look)
    return intact, foresight.foreseen(intact.blocks)


def passes(subject):
    """Return how often the last block runs while a subject is scanned, and the scan."""
    seen = []
    handle = subject.architecture.blocks[-1].register_forward_hook(lambda *_: seen.append(1))
    try:
        found = scan(subject, TEXT)
    finally:
        handle.remove()
    return len(seen), found


def scalar_for(subject, layer, channel, write):
    """Return a scalar of a block that adds ``write`` to a channel at the first token, above all."""
    (part,) = trace(subject, TEXT).writes[layer]
    alone = abs(part.inputs[0]) / (abs(part.inputs[1:]).max(axis=0) + 1e-9)
    alone[PLACE.col] = 0
    col = int(alone.argmax())
    return {Coordinate(layer, channel, col): write / float(part.inputs[0, col])}


def test_the_copy_is_what_the_pruned_model_computes(planted):
    """From the onset block on, at every token and channel, within rounding; and the intact row is intact."""
    intact, foreseen = foreseen_in(planted)
    assert (1, {PLACE}) == (foreseen.start, foreseen.pruned)
    with edited(planted, [Prune(PLACE)]):
        pruned = trace(planted, TEXT).residual
    assert abs(foreseen.traced(intact).residual - pruned).max() <= 1e-4 * abs(pruned).max()
    alone = trace(planted, TEXT).residual
    assert abs(intact.residual - alone).max() <= 1e-5 * abs(alone).max()
    assert detect(intact).coordinates == {PLACE}


def test_an_offloaded_model_is_read_once(tmp_path):
    """From disk, too: the scan ends after one pass over the file."""
    subject = load(resolve("tiny-planted"), device="cpu")
    accelerate.disk_offload(subject.model, tmp_path, execution_device=torch.device("cpu"))
    count, found = passes(subject)
    assert (1, 1, SUPPRESSED, (PLACE,)) == (count, found.passes, found.stop_reason, found.coordinates)


def test_a_set_that_spans_two_blocks_is_taken_out_block_by_block(planted):
    """What the second block writes is computed from what the pruned copy brings it."""
    activation = detect(trace(planted, TEXT)).super_activations[0]
    later = scalar_for(planted, 2, activation.channel, activation.magnitude / 2)
    with set_scalars(planted, later):
        intact, foreseen = foreseen_in(planted)
        places = detect(intact).coordinates
        with edited(planted, [Prune(place) for place in places]):
            pruned = trace(planted, TEXT).residual
    assert {PLACE, *later} == places == foreseen.pruned
    assert 1 == foreseen.start
    assert abs(foreseen.traced(intact).residual - pruned).max() <= 1e-4 * abs(pruned).max()


def test_what_a_larger_write_dwarfs_is_forgotten(planted):
    """A first block makes an outlier, and the second one twenty times as large: the copy begins anew."""
    typical = float(trace(planted, TEXT).typical[1])
    first = scalar_for(planted, 0, PLACE.row, 1000 * typical)
    with set_scalars(planted, first):
        second = scalar_for(planted, 1, PLACE.row, 20_000 * typical)
    guessed = []
    with set_scalars(planted, first | second), speculative.speculative_pruning(planted) as foresight:
        look = lambda write: (foresight.look(write), guessed.append(foresight.guesses))  # noqa: E731
        found = detect(trace(planted, TEXT, look)).coordinates
    assert set(first) == {place for guess in guessed[0] for place, _ in guess.scalars}
    foreseen = foresight.foreseen(len(planted.architecture.blocks))
    assert set(second) == found == foreseen.pruned
    assert 1 == foreseen.start


@pytest.mark.parametrize(
    "change",
    [
        lambda found: None,
        lambda found: replace(found, pruned=frozenset()),
        lambda found: replace(found, pruned=found.pruned | {Coordinate(1, 2, 3)}),
        lambda found: replace(found, residual=tuple(100 * part for part in found.residual)),
    ],
    ids=["nothing", "nothing pruned", "another set", "not suppressed"],
)
def test_a_guess_that_is_wrong_costs_a_second_pass_and_nothing_else(planted, monkeypatch, change):
    """Only a copy pruned of exactly what is found, in which nothing is left of it, confirms anything."""
    guessed = SpeculativePruning.foreseen
    monkeypatch.setattr(SpeculativePruning, "foreseen", lambda self, blocks: change(guessed(self, blocks)))
    count, found = passes(planted)
    assert (2, 2, SUPPRESSED, (PLACE,)) == (count, found.passes, found.stop_reason, found.coordinates)


def test_a_second_pass_is_over_the_one_sequence(planted, monkeypatch):
    """A copy that joined before the set's first block, by a guess that was dwarfed, is left behind."""
    typical = float(trace(planted, TEXT).typical[1])
    first = scalar_for(planted, 0, PLACE.row, 1000 * typical)
    with set_scalars(planted, first | {PLACE: 0.0}):
        later = scalar_for(planted, 2, PLACE.row, 20_000 * typical)
    monkeypatch.setattr(SpeculativePruning, "foreseen", lambda self, blocks: None)
    rows = []
    handle = planted.architecture.blocks[-1].register_forward_hook(
        lambda _, given, output: rows.append(len(output))
    )
    try:
        with set_scalars(planted, first | later | {PLACE: 0.0}):
            found = scan(planted, TEXT)
    finally:
        handle.remove()
    assert (2, SUPPRESSED, set(later)) == (found.passes, found.stop_reason, set(found.coordinates))
    assert [2, 1] == rows


def test_a_prune_of_the_copy_that_does_nothing_confirms_nothing(planted, monkeypatch):
    """The activation stands in the copy, so the model itself is pruned and looked at."""
    monkeypatch.setattr(speculative, "with_correction", lambda inputs, output, *_: output.clone())
    count, found = passes(planted)
    assert (2, 2, SUPPRESSED, (PLACE,)) == (count, found.passes, found.stop_reason, found.coordinates)


@pytest.mark.parametrize(("asked", "expected"), [(0, 2), (32, 1)])
def test_of_a_packed_matrix_the_largest_inputs_are_asked(planted, monkeypatch, asked, expected):
    """A scalar that was not asked for is found after the pass, which costs a second one."""
    monkeypatch.setattr(LinearProjection, "shown_row", lambda *_: None)
    monkeypatch.setattr(speculative, "_ASKED", asked)
    count, found = passes(planted)
    assert (expected, (PLACE,)) == (count, found.coordinates)


def test_a_scalar_of_a_small_input_is_foreseen_too(planted):
    """Forty inputs are larger, and it makes nine tenths of the write all the same."""
    activation = detect(trace(planted, TEXT)).super_activations[0]
    inputs = trace(planted, TEXT).writes[1][0].inputs[0]
    col = int(abs(inputs).argsort()[-41])
    small = {Coordinate(1, PLACE.row, col): 9 * activation.magnitude / float(inputs[col])}
    with set_scalars(planted, small):
        count, found = passes(planted)
    assert (1, SUPPRESSED) == (count, found.stop_reason)
    assert set(small) <= set(found.coordinates)


def test_a_model_without_super_weights_runs_alone(plain):
    """No copy joins: the pass is the one that a trace takes, to the last bit."""
    with speculative.speculative_pruning(plain) as foresight:
        looked = trace(plain, TEXT, foresight.look)
    assert foresight.foreseen(looked.blocks) is None
    assert (looked.residual == trace(plain, TEXT).residual).all()


def test_nothing_is_left_on_the_model(planted):
    """No hook, no changed bit, whether the pass ends or not."""
    before = [module._forward_hooks.copy() for module in planted.model.modules()]
    state = [tensor.clone() for tensor in planted.model.state_dict().values()]
    scan(planted, TEXT)

    def stopped(write):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), speculative.speculative_pruning(planted):
        trace(planted, TEXT, stopped)
    after = [module._forward_hooks for module in planted.model.modules()]
    assert before == after
    assert all(not module._forward_pre_hooks for module in planted.model.modules())
    assert all(map(torch.equal, state, planted.model.state_dict().values()))


def test_more_is_looked_for_where_the_copy_still_shows_it(planted, monkeypatch):
    """A detector that first puts one of two just below the core: the next pass adds it."""
    activation = detect(trace(planted, TEXT)).super_activations[0]
    other = scalar_for(planted, 1, activation.channel, activation.magnitude / 2)
    detected = []
    part = 0.06

    def blind(seen):
        found = detect(seen)
        detected.append(found)
        if len(detected) > 1:
            return found
        seen_less = [replace(w, part=part) for w in found.super_weights if w.coordinate == PLACE]
        rest = tuple(w for w in found.super_weights if w.coordinate != PLACE)
        return replace(found, super_weights=rest, companions=tuple(seen_less))

    monkeypatch.setattr(scan_module, "detect", blind)
    with set_scalars(planted, other):
        found = scan(planted, TEXT)
    assert {PLACE, *other} == set(found.coordinates)
    assert SUPPRESSED == found.stop_reason
    # One that made next to nothing of it in the intact model takes over: it is no part of the core.
    detected.clear()
    part = 0.01
    with set_scalars(planted, other):
        found = scan(planted, TEXT)
    assert (set(other), MADE_AGAIN) == (set(found.coordinates), found.stop_reason)
    assert (PLACE,) == tuple(weight.coordinate for weight in found.successors)
