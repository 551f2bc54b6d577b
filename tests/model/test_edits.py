"""What holds of every edit, whatever is edited and however the block is left."""

from __future__ import annotations

import contextlib

import accelerate
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superweight.checkpoints.registry import resolve
from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput, EditFailed
from superweight.detection.detect import detect
from superweight.detection.run_trace import trace
from superweight.measurement.conditions import Condition
from superweight.measurement.corpus import BUILTIN, cut, documents
from superweight.measurement.evaluate import measure, perplexity
from superweight.model import edits as edits_module
from superweight.model.edits import PatchActivation, Prune, Scale, active_edits, edited
from superweight.model.loading import load
from tests.helpers.live_models import TEXT, logits, same_bits

coordinates = st.builds(Coordinate, st.integers(0, 3), st.integers(0, 63), st.integers(0, 159))
sets = st.sets(coordinates, min_size=1, max_size=6).map(sorted)
factors = st.floats(-4, 4, allow_nan=False)


def bits(subject):
    return [projection.weight().clone() for projection in subject.architecture.projections]


@settings(max_examples=30, deadline=None)
@given(
    chosen=sets,
    factor=factors,
    error=st.sampled_from([None, ValueError, KeyboardInterrupt, SystemExit]),
    by_hook=st.booleans(),
)
def test_every_exit_restores_every_bit(planted, chosen, factor, error, by_hook):
    """Any set, any factor, any exception, KeyboardInterrupt included: the weights come back exactly."""
    before, untouched = bits(planted), logits(planted)
    with contextlib.suppress(ValueError, KeyboardInterrupt, SystemExit):
        with edited(planted, [Scale(place, factor) for place in chosen], by_hook=by_hook):
            assert len(chosen) == len(active_edits(planted))
            if error is not None:
                raise error
    assert same_bits(before, bits(planted))
    assert torch.equal(untouched, logits(planted))
    assert () == active_edits(planted)


@settings(max_examples=20, deadline=None)
@given(chosen=sets)
def test_scale_by_one_is_identity(planted, chosen):
    """A factor of 1 changes no logit by a single bit."""
    before = logits(planted)
    with edited(planted, [Scale(place, 1.0) for place in chosen]):
        assert torch.equal(before, logits(planted))


@settings(max_examples=20, deadline=None)
@given(chosen=sets, factor=factors)
def test_a_hook_edit_equals_a_weight_edit(planted, chosen, factor):
    """Correcting the output gives what writing the weight gives, within rounding."""
    chosen = [*chosen, Coordinate(1, 41, 23)] if Coordinate(1, 41, 23) not in chosen else chosen
    edits = [Scale(place, factor) for place in chosen]
    with edited(planted, edits):
        written = trace(planted, TEXT)
    with edited(planted, edits, by_hook=True):
        hooked = trace(planted, TEXT)
    scale = abs(written.residual).max()
    assert abs(written.residual - hooked.residual).max() <= 1e-5 * scale


@settings(max_examples=15, deadline=None)
@given(outer=coordinates, inner=coordinates)
def test_nested_edits_are_undone_in_order(planted, outer, inner):
    """Leaving the inner edit leaves the outer one in force; the same scalar may be edited twice."""
    before = bits(planted)
    with edited(planted, [Scale(outer, 0.5)]):
        half = bits(planted)
        with edited(planted, [Prune(inner)]):
            assert 0.0 == planted.architecture.value(inner)
        assert same_bits(half, bits(planted))
    assert same_bits(before, bits(planted))


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -float("inf")])
def test_factors_that_are_no_numbers_are_refused(factor):
    """NaN and infinite factors are bad input, not edits."""
    with pytest.raises(BadInput, match="finite"):
        Scale(Coordinate(0, 0, 0), factor)


@pytest.mark.parametrize("place", [Coordinate(4, 0, 0), Coordinate(0, 64, 0), Coordinate(0, 0, 160)])
def test_a_coordinate_outside_the_model_is_refused(planted, place):
    """Block, row and column are each checked, and nothing stays edited."""
    with pytest.raises(BadInput, match=r"coordinate \["), edited(planted, [Prune(place)]):
        pass
    assert () == active_edits(planted)


def test_an_edit_inside_a_module_that_ignores_its_weight_raises(planted, monkeypatch):
    """A write that the module does not compute with is found out by the probe."""
    module = planted.architecture.projections[1].module
    frozen = module.weight.detach().clone()
    monkeypatch.setattr(module, "forward", lambda x: torch.nn.functional.linear(x, frozen))
    with (
        pytest.raises(EditFailed, match="did not take effect"),
        edited(planted, [Prune(Coordinate(1, 41, 23))]),
    ):
        pass


def test_a_weight_that_cannot_be_written_is_edited_through_its_output(planted, monkeypatch):
    """Where the weight on show is not what is computed with, the hook edits, and proves it."""
    module = planted.architecture.projections[1].module
    frozen = module.weight.detach().clone()
    monkeypatch.setattr(module, "forward", lambda x: torch.nn.functional.linear(x, frozen))
    place = Coordinate(1, 41, 23)
    with edited(planted, [Prune(place)], by_hook=True):
        pruned = trace(planted, TEXT)
    assert abs(pruned.residual[2:, 0, 41]).max() < 10
    assert abs(trace(planted, TEXT).residual[2:, 0, 41]).min() > 100


def test_a_held_activation_is_held(planted):
    """The residual stream has the value after the block, and has its own again afterwards."""
    before = trace(planted, TEXT).residual
    with edited(planted, [PatchActivation(2, 1, 7, 123.0)]):
        held = trace(planted, TEXT).residual
    assert 123.0 == held[3, 1, 7]
    assert (before == trace(planted, TEXT).residual).all()


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_an_offloaded_weight_is_edited_through_its_output(where, tmp_path):
    """A write to what accelerate offloaded is lost; the edit goes through the hook and is proven."""
    subject = load(resolve("tiny-planted"), device="cpu")
    place = Coordinate(1, 41, 23)
    if where == "cpu":
        accelerate.cpu_offload(subject.model, execution_device=torch.device("cpu"))
    else:
        accelerate.disk_offload(subject.model, tmp_path, execution_device=torch.device("cpu"))
    assert not subject.architecture.projection(place).writable
    assert 4.0 == subject.architecture.value(place)
    intact = trace(subject, TEXT).residual
    assert {place} == detect(trace(subject, TEXT)).coordinates
    with edited(subject, [Prune(place)]):
        assert 0.0 == pytest.approx(subject.architecture.value(place), abs=1e-6)
        assert abs(trace(subject, TEXT).residual[2:, 0, 41]).max() < 10
    assert 4.0 == subject.architecture.value(place)
    assert (intact == trace(subject, TEXT).residual).all()


@pytest.mark.parametrize(("layer", "channel"), [(-1, 0), (4, 0), (5, 0), (0, -1), (0, 64), (0, 65)])
def test_an_activation_outside_the_model_is_refused(planted, layer, channel):
    """Python would count a negative one from the end and patch another."""
    assert (4, 64) == (len(planted.architecture.blocks), planted.architecture.hidden)
    patch = PatchActivation(layer=layer, token=0, channel=channel, value=1.0)
    with pytest.raises(BadInput, match="to patch"), edited(planted, [patch]):
        pass


@pytest.mark.parametrize(("layer", "channel"), [(0, 0), (3, 63)])
def test_the_outermost_activations_can_be_held(planted, layer, channel):
    """The first block's first channel and the last one's last."""
    with edited(planted, [PatchActivation(layer=layer, token=0, channel=channel, value=7.0)]):
        assert 7.0 == trace(planted, "text").residual[layer + 1, 0, channel]


def test_holds_of_one_place_are_equal_whatever_they_hold_it_at():
    """Tensors have no one truth value; where the activation is, is what tells holds apart."""
    one, other = PatchActivation(2, 1, 7, torch.ones(2)), PatchActivation(2, 1, 7, torch.zeros(2))
    assert one == other
    assert one != PatchActivation(3, 1, 7, torch.ones(2))


def test_a_block_that_gives_more_than_the_stream_keeps_the_rest(planted, monkeypatch):
    """Some return a tuple, with attention weights or a cache behind the residual stream."""
    block = planted.architecture.blocks[2]
    whole = block.forward
    monkeypatch.setattr(block, "forward", lambda *given, **named: (whole(*given, **named), "a", "b"))
    seen = []

    def unpack(module, given, output):
        seen.append(output[1:])
        return output[0]

    with edited(planted, [PatchActivation(2, 1, 7, 123.0)]):
        handle = block.register_forward_hook(unpack)  # after the patch's own
        try:
            held = trace(planted, TEXT).residual
        finally:
            handle.remove()
    assert [("a", "b")] == seen
    assert 123.0 == held[3, 1, 7]


def test_an_edit_that_cannot_be_undone_names_the_first_scalar(planted, monkeypatch):
    """Of several in one projection; what was measured after it does not count."""
    probed = edits_module._probe
    calls = []

    def other_at_the_end(*given):
        calls.append(given)
        return probed(*given) + (len(calls) > 2)

    monkeypatch.setattr(edits_module, "_probe", other_at_the_end)
    edits = [Prune(Coordinate(1, 41, 23)), Prune(Coordinate(1, 40, 22)), Prune(Coordinate(1, 42, 24))]
    with pytest.raises(EditFailed, match=r"undoing the edit of \[1, 40, 22\]"), edited(planted, edits):
        pass


def test_an_edit_without_effect_names_the_first_scalar(planted, monkeypatch):
    """Of several that did not take effect."""
    monkeypatch.setattr(edits_module, "_written", lambda *_: contextlib.nullcontext())
    edits = [Prune(Coordinate(1, 41, 23)), Prune(Coordinate(1, 40, 22)), Prune(Coordinate(1, 42, 24))]
    with pytest.raises(EditFailed, match=r"scaling \[1, 40, 22\] by 0"), edited(planted, edits):
        pass


def test_a_hold_that_missed_a_pass_is_refused(planted, monkeypatch):
    """A block that was skipped in one pass of two held nothing there."""
    first = planted.architecture.blocks[0]

    def one_pass_and_one_cut_short():
        trace(planted, TEXT)
        for hook in list(first._forward_pre_hooks.values()):
            hook(first, ())

    patch = PatchActivation(2, 1, 7, 123.0)
    with pytest.raises(EditFailed, match="patched in 1 of 2 forward passes"), edited(planted, [patch]):
        one_pass_and_one_cut_short()


def test_what_is_held_stays_held_while_conditions_are_measured(planted):
    """The head runs by itself on what the decoder left: that is no forward pass that missed its hold."""
    text = "\n\n".join(documents(BUILTIN)[:8])
    windows = cut(planted, [text], "eight documents", count=8)
    condition = Condition("pruned", (Prune(Coordinate(1, 41, 23)),))
    with edited(planted, [PatchActivation(2, 1, 7, 50.0)]):
        expected = perplexity(planted, windows)
        measured = measure(planted, windows, [condition])
    assert expected == pytest.approx(measured["intact"].perplexity, rel=1e-4)
    assert perplexity(planted, windows) != pytest.approx(expected, rel=1e-4)


def test_a_coordinate_twice_in_one_call_is_refused(planted):
    """Which of two factors would count is nobody's to guess."""
    twice = [Scale(Coordinate(1, 41, 23), 0.5), Prune(Coordinate(1, 41, 23))]
    with pytest.raises(BadInput, match="scaled twice in one call"), edited(planted, twice):
        pass


def test_every_coordinate_of_a_call_must_lie_in_the_model(planted):
    """One good one before it does not let a bad one pass."""
    edits = [Prune(Coordinate(1, 41, 23)), Prune(Coordinate(1, 41, 160))]
    with pytest.raises(BadInput, match="160"), edited(planted, edits):
        pass


def test_many_scalars_are_scaled_in_one_call(planted):
    """More columns than one probe holds, each by its own factor, and all put back."""
    weight = planted.architecture.writer(1, None).weight()
    before = weight.clone()
    factors = {Coordinate(1, col % 64, col): 1 + col / 100 for col in range(160)}
    with edited(planted, [Scale(place, factor) for place, factor in factors.items()]):
        for place, factor in factors.items():
            expected = float(before[place.row, place.col]) * factor
            assert expected == pytest.approx(float(weight[place.row, place.col]), rel=1e-6)
    assert torch.equal(before, weight)


def test_a_hook_edit_that_is_off_by_little_is_refused(planted, monkeypatch):
    """Four roundings are allowed it; a thousandth is more than that."""
    from superweight.model.projections import LinearProjection

    corrected = LinearProjection.corrected
    monkeypatch.setattr(
        LinearProjection,
        "corrected",
        lambda self, rows, cols, change: corrected(self, rows, cols, change * 1.001),
    )
    with (
        pytest.raises(EditFailed, match="did not take effect"),
        edited(planted, [Prune(Coordinate(1, 41, 23))], by_hook=True),
    ):
        pass
