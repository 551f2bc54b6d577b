"""Gains of norms behind the MLP: found, edited, proven and put back, by the norm's own arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from superweight.core.coordinates import Coordinate, GainCoordinate, parse_place
from superweight.core.errors import BadInput, EditFailed
from superweight.detection.run_trace import trace
from superweight.detection.scan import scan
from superweight.detection.scan_record import as_dict
from superweight.measurement.batched_ablation import can_batch
from superweight.measurement.conditions import Condition
from superweight.measurement.hidden_states import decode_batched, decode_one_by_one
from superweight.model.edits import Prune, Scale, ScaleGain, active_edits, edited
from superweight.model.gains import Gains
from tests.helpers.live_models import TEXT, logits
from tests.model.families import FAMILIES, POST_NORM, norm_behind, planted_in

NORM = "post_feedforward_layernorm"
PLACE = GainCoordinate(1, NORM, 17)
POST_NORMS = [name for name, family in FAMILIES.items() if family.kind == POST_NORM]


@pytest.fixture(params=POST_NORMS)
def subject(request, planted):
    """A tiny random model whose blocks have a norm behind the MLP."""
    return FAMILIES[request.param].build(planted)


def test_a_planted_gain_is_found_beside_the_scalar_that_it_magnifies(subject):
    """Its block, norm, channel and value, the largest of its norm, with all of the activation behind it."""
    more_than_the_weight = 1.0 if "Gemma" in subject.name else 0.0  # Gemma's norms multiply by 1 + weight
    with planted_in(subject) as place:
        found = scan(subject, TEXT)
        document = as_dict(subject, found)
    (gain,) = found.gains
    assert GainCoordinate(place.layer, NORM, place.row) == gain.coordinate
    assert (1000.0 + more_than_the_weight) == pytest.approx(gain.value, rel=1e-5)
    assert (1, True) == (gain.rank, gain.makes)
    assert gain.part == pytest.approx(1.0, abs=0.05)
    (written,) = document["gains"]
    assert (1, NORM, 17, 1) == tuple(written[name] for name in ("layer", "norm", "channel", "rank"))
    assert [1] == [link["layer"] for link in document["chain"]]


def test_ordinary_gains_are_nothing(subject):
    """A norm as it is made names none."""
    assert () == scan(subject, TEXT).gains


def test_without_its_gain_the_activation_is_gone_and_comes_back(subject):
    """Pruned, the norm writes nothing to the channel; afterwards the logits are the same bits."""
    with planted_in(subject) as place:
        before = logits(subject)
        gain = GainCoordinate(place.layer, NORM, place.row)
        with edited(subject, [Prune(gain)]):
            assert (ScaleGain(gain, 0.0),) == active_edits(subject)
            assert 0.0 == abs(trace(subject, TEXT).arrived[place.layer][:, place.row]).max()
            assert not torch.equal(before, logits(subject))
        assert torch.equal(before, logits(subject))


def test_a_gain_is_put_back_when_something_fails_meanwhile(subject):
    """Whatever is raised inside."""
    before = logits(subject)
    with pytest.raises(ZeroDivisionError), edited(subject, [Prune(PLACE)]):
        raise ZeroDivisionError
    assert torch.equal(before, logits(subject))


def test_a_scaled_gain_is_what_a_changed_parameter_makes_of_it(subject):
    """Twice the gain by edit, and by writing the norm's own weight."""
    with edited(subject, [ScaleGain(PLACE, 2.0)]):
        by_edit = logits(subject)
    norm, plus = norm_behind(subject, 1), 1.0 if "Gemma" in subject.name else 0.0
    stored = norm.weight.detach()[17].clone()
    norm.weight[17] = 2 * (stored + plus) - plus
    try:
        torch.testing.assert_close(logits(subject), by_edit)
    finally:
        norm.weight[17] = stored


def test_gains_ride_in_a_batch_each_on_its_own_rows(subject):
    """A gain, a scalar and both: the hidden states of passes of their own, and the intact rows untouched."""
    scalar = Prune(Coordinate(1, 17, 3))
    conditions = [
        Condition("gain", gains=(Prune(PLACE),)),
        Condition("scalar", (scalar,)),
        Condition("both", (scalar,), gains=(Prune(PLACE), ScaleGain(GainCoordinate(2, NORM, 5), 3.0))),
    ]
    ids = torch.randint(3, 200, (3, 9), generator=torch.Generator().manual_seed(1))
    assert can_batch(subject, conditions)
    together, alone = (decode(subject, ids, conditions) for decode in (decode_batched, decode_one_by_one))
    for name, hidden in alone.hidden.items():
        torch.testing.assert_close(together.hidden[name], hidden, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(alone.hidden["gain"], alone.hidden["intact"])


def test_an_edit_of_a_gain_without_effect_is_refused(subject, monkeypatch):
    """A hook that is never called changes nothing, and nothing is measured."""

    class Handle:
        def remove(self):
            pass

    norm = type(norm_behind(subject, 1))
    monkeypatch.setattr(norm, "register_forward_hook", lambda *_, **__: Handle())
    with (
        pytest.raises(EditFailed, match=r"post_feedforward_layernorm in block 1 did not take effect"),
        edited(subject, [Prune(PLACE)]),
    ):
        pass


def test_a_gain_that_does_not_come_back_is_said(subject):
    """A norm that was changed meanwhile is not what it was."""
    norm = norm_behind(subject, 1)
    stored = norm.weight.detach().clone()
    try:
        with pytest.raises(EditFailed, match="did not bring back"), edited(subject, [Prune(PLACE)]):
            norm.weight[3] += 1
    finally:
        norm.weight.copy_(stored)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (GainCoordinate(9, NORM, 1), "there is no block 9"),
        (GainCoordinate(1, "no_such_norm", 1), "block 1 has no norm 'no_such_norm'.*post_feedforward"),
        (GainCoordinate(1, NORM, 32), "has 32 gains, and none at 32"),
    ],
)
def test_a_gain_outside_the_model_is_refused(subject, place, reason):
    """With what there is instead."""
    with pytest.raises(BadInput, match=reason), edited(subject, [Prune(place)]):
        pass


def test_what_a_norm_adds_is_kept():
    """A layer norm's offset is no part of its gain: with the gain at zero it is what is left."""
    norm = nn.LayerNorm(8).requires_grad_(False)
    norm.weight.copy_(torch.arange(1.0, 9.0))
    norm.bias.copy_(torch.arange(8.0))
    gains = Gains(norm, 0, "norm", 8)
    torch.testing.assert_close(gains.values(), norm.weight, rtol=1e-5, atol=0)
    read = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(2))
    before = norm(read)
    with gains.scaled([{5: 0.0}]):
        assert torch.equal(norm(read)[..., 5], torch.full((1, 4), 5.0))
        assert torch.equal(norm(read)[..., :5], before[..., :5])
    assert torch.equal(norm(read), before)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("5,post_feedforward_layernorm,163", GainCoordinate(5, NORM, 163)),
        ("[5, post_feedforward_layernorm, 163]", GainCoordinate(5, NORM, 163)),
        ("11,507,1229", Coordinate(11, 507, 1229)),
        ("11,2,507,1229", Coordinate(11, 507, 1229, 2)),
    ],
)
def test_a_place_is_read_as_it_is_written(text, place):
    """A name in the middle makes it a gain's."""
    assert place == parse_place(text)
    assert place == parse_place(str(place))


@pytest.mark.parametrize("text", ["5,norm", "x,norm,3", "5,norm,y", "-5,norm,3", "5,,3", "1,2", "a,1,2"])
def test_what_is_no_place_is_refused(text):
    """In one line that shows how one is written."""
    with pytest.raises(BadInput):
        parse_place(text)


def test_a_gain_is_scaled_once_in_a_call(subject):
    """Which of two factors would count is nobody's to guess; beside a scalar both are in force."""
    with (
        pytest.raises(BadInput, match="scaled twice"),
        edited(subject, [Prune(PLACE), ScaleGain(PLACE, 2.0)]),
    ):
        pass
    with edited(subject, [Prune(PLACE), Scale(Coordinate(1, 17, 3), 2.0)]):
        assert 2 == len(active_edits(subject))


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), float("-inf")])
def test_no_factor_that_is_no_number_is_taken(factor):
    """A gain of NaN would make every comparison pass."""
    with pytest.raises(BadInput, match="finite"):
        ScaleGain(PLACE, factor)
