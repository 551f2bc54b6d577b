"""Every family of decoder: a planted super weight is found at its place, pruned, and put back."""

from __future__ import annotations

import pytest
import torch
import transformers

from superweight.core.errors import NotFinite, UnknownArchitecture
from superweight.detection.run_trace import trace, trace_batch
from superweight.detection.scan import NONE_FOUND, SUPPRESSED, scan
from superweight.measurement.batched_ablation import can_batch
from superweight.measurement.conditions import Condition
from superweight.measurement.hidden_states import decode_batched, decode_one_by_one
from superweight.model.architecture import inspect_architecture
from superweight.model.edits import EditFailed, Prune, Scale, edited
from superweight.model.prefix_cache import keeping_prefixes, resumed
from tests.helpers.live_models import logits, same_bits

from .families import FAMILIES, INTERMEDIATE, MIXTURE, POST_NORM, TEXT, planted_in


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def tiny(family, planted):
    """A randomly initialised model of the family's real class; the unplanted twin of itself."""
    return family.build(planted)


def weights(subject):
    return [tensor.clone() for tensor in subject.model.state_dict().values()]


def test_a_planted_super_weight_is_found_and_its_twin_has_none(tiny, family, request, record_property):
    """The scan names exactly the planted coordinate and confirms it, in the same pass or in one more.

    Behind a router or a norm what the scalar adds to the stream cannot be taken out of it again.
    """
    record_property("family", request.node.callspec.params["family"])
    record_property("kind", family.kind)
    record_property("architecture", type(tiny.model).__name__)
    assert () == scan(tiny, TEXT).coordinates
    assert NONE_FOUND == scan(tiny, TEXT).stop_reason
    with planted_in(tiny) as place:
        found = scan(tiny, TEXT)
    assert (place,) == found.coordinates
    passes = 2 if family.kind in (MIXTURE, POST_NORM) else 1
    assert (SUPPRESSED, passes) == (found.stop_reason, found.passes)


def test_only_writes_that_arrive_as_they_are_can_be_foreseen(tiny, family):
    """Blocks with routed experts, or a norm behind the MLP, are not told of; all others are, in order."""
    told = []
    trace(tiny, TEXT, told.append)
    plain = [] if family.kind == POST_NORM else [block.experts is None for block in tiny.architecture.layout]
    assert [layer for layer, is_plain in enumerate(plain) if is_plain] == [write.layer for write in told]


def test_a_prune_takes_effect_and_is_undone_bit_for_bit(tiny):
    """Inside, the scalar is zero and the model says something else; afterwards every bit is back."""
    with planted_in(tiny) as place:
        before, said = weights(tiny), logits(tiny)
        with edited(tiny, [Prune(place)]):
            assert 0.0 == tiny.architecture.value(place)
            assert not torch.equal(said, logits(tiny))
        assert same_bits(before, weights(tiny))
        assert torch.equal(said, logits(tiny))


def test_an_edit_through_the_output_equals_one_of_the_weight(tiny):
    """Where the weight could not be written, the hook does the same within rounding."""
    with planted_in(tiny) as place:
        with edited(tiny, [Scale(place, 0.5)]):
            written = trace(tiny, TEXT)
        with edited(tiny, [Scale(place, 0.5)], by_hook=True):
            value = tiny.architecture.value(place)
            hooked = trace(tiny, TEXT)
        assert 0.5 * tiny.architecture.value(place) == pytest.approx(value, rel=1e-5)
    assert abs(written.residual - hooked.residual).max() <= 1e-4 * abs(written.residual).max()


def test_the_probe_reads_what_the_weight_says(tiny):
    """A one-hot input through the module shows the same matrix as its parameter."""
    for projection in tiny.architecture.projections:
        shown = projection.weight()
        probed = projection.probe(torch.arange(projection.intermediate)).T
        torch.testing.assert_close(probed, shown)


def test_a_resumed_pass_equals_a_whole_one(tiny):
    """Going on from the middle gives the same bits, whatever the blocks hand to each other."""
    ids = torch.tensor([tiny.encode("The tide turned."), tiny.encode("A bell rang out.")])
    with torch.no_grad():
        with keeping_prefixes(tiny, [2]) as prefixes:
            whole = tiny.model(input_ids=ids, use_cache=False).logits
        with resumed(tiny, prefixes[2]):
            again = tiny.model(input_ids=ids, use_cache=False).logits
    assert torch.equal(whole, again)


def test_detection_does_not_depend_on_the_batch(tiny):
    """Padded beside a longer text, the same coordinate is found with the same share."""
    with planted_in(tiny):
        alone = scan(tiny, TEXT)
        batch = trace_batch(tiny, [tiny.encode(TEXT), tiny.encode("Something longer than that.")])
    assert alone.strongest is not None
    course = batch[0].residual[:, alone.strongest.token, alone.strongest.channel]
    assert alone.strongest.magnitude == pytest.approx(course[abs(course).argmax()], rel=1e-4)


def test_what_was_recorded_adds_up(tiny):
    """The parts of each block's write, weighted, sum to what arrives before any norm behind it."""
    recorded = trace(tiny, TEXT)
    for block, writes, arrived in zip(
        tiny.architecture.layout, recorded.writes, recorded.arrived, strict=True
    ):
        total = 0 * arrived
        for write in writes:
            total[write.tokens] += write.factors[:, None] * write.outputs
        behind = FAMILIES_WITH_NORM.get(type(tiny.model).__name__)
        if behind is None:
            torch.testing.assert_close(torch.tensor(total * block.scale), torch.tensor(arrived))
        else:
            norm = getattr(block.module, behind)
            torch.testing.assert_close(norm(torch.tensor(total)), torch.tensor(arrived))


FAMILIES_WITH_NORM = {
    "Gemma2ForCausalLM": "post_feedforward_layernorm",
    "Gemma3ForCausalLM": "post_feedforward_layernorm",
    "Olmo2ForCausalLM": "post_feedforward_layernorm",
}


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.kind == POST_NORM])
def test_the_gain_of_a_norm_behind_the_mlp_is_evidence(name, planted):
    """Product times gain is what arrives in the stream; without the gain it would be no outlier."""
    subject = FAMILIES[name].build(planted)
    with planted_in(subject) as place:
        (weight,) = scan(subject, TEXT).super_weights
        arrived = trace(subject, TEXT).arrived[place.layer][weight.token, place.row]
    assert abs(weight.value * weight.input) < 1
    assert arrived == pytest.approx(weight.value * weight.input * weight.gain, rel=1e-2)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.kind == MIXTURE])
def test_a_coordinate_names_its_expert_and_only_that_is_edited(name, planted):
    """The same row and column of every other expert stay as they were."""
    subject = FAMILIES[name].build(planted)
    with planted_in(subject) as place:
        assert place.expert is not None
        others = [
            p
            for p in subject.architecture.layout[place.layer].experts.projections
            if p.expert != place.expert
        ]
        for by_hook in (False, True):
            before = [other.value(place.row, place.col) for other in others]
            with edited(subject, [Prune(place)], by_hook=by_hook):
                assert before == [other.value(place.row, place.col) for other in others]
                assert 0.0 == pytest.approx(subject.architecture.value(place), abs=1e-3)


def test_a_shared_expert_is_found_where_a_gate_stands_behind_it(planted):
    """Qwen2-MoE's shared expert is the block's dense projection; its gate is its factor."""
    subject = FAMILIES["Qwen2-MoE"].build(planted)
    projection = subject.architecture.writer(1)
    (shared,) = (write for write in trace(subject, TEXT).writes[1] if write.expert is None)
    assert (shared.factors < 1).all()
    active = shared.inputs[:, 7] * shared.factors
    weight = projection.weight()
    weight[17, 7] = 1000.0 / float(active[abs(active).argmax()])
    found = scan(subject, TEXT)
    assert (projection.at(17, 7),) == found.coordinates
    assert SUPPRESSED == found.stop_reason


REFUSED = {
    "a recurrent mixer": (
        lambda: transformers.MambaForCausalLM(
            transformers.MambaConfig(vocab_size=257, hidden_size=32, num_hidden_layers=2, state_size=4)
        ),
        "MambaForCausalLM.*feed-forward network.*mixers of tokens",
    ),
    "another recurrent mixer": (
        lambda: transformers.Mamba2ForCausalLM(
            transformers.Mamba2Config(
                vocab_size=257, hidden_size=32, num_hidden_layers=2, num_heads=8, head_dim=8, n_groups=1
            )
        ),
        "Mamba2ForCausalLM.*mixers of tokens",
    ),
    "a receptance network": (
        lambda: transformers.RwkvForCausalLM(
            transformers.RwkvConfig(vocab_size=257, hidden_size=32, num_hidden_layers=2)
        ),
        "RwkvForCausalLM",
    ),
    "an encoder": (
        lambda: transformers.BertLMHeadModel(
            transformers.BertConfig(
                vocab_size=257,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=48,
            )
        ),
        "BertLMHeadModel is an encoder.*causal decoder was looked for",
    ),
}


@pytest.mark.parametrize(("build", "sentence"), REFUSED.values(), ids=list(REFUSED))
def test_a_model_without_the_structure_is_refused_by_name(build, sentence):
    """One sentence names the class and what was looked for."""
    with pytest.raises(UnknownArchitecture, match=sentence) as caught:
        inspect_architecture(build())
    assert 1 == len(str(caught.value).splitlines())


def test_a_factor_behind_the_mlp_is_learnt_from_what_arrives(planted, monkeypatch):
    """A multiplier that nobody listed is the gain of the super weight, and its pruning is confirmed."""
    subject = FAMILIES["Llama"].build(planted)
    mlp = subject.architecture.blocks[1].mlp
    forward = mlp.forward
    with planted_in(subject) as place:
        monkeypatch.setattr(mlp, "forward", lambda x: 5.0 * forward(x))
        found = scan(subject, TEXT)
    assert ((place,), SUPPRESSED) == (found.coordinates, found.stop_reason)
    assert 5.0 == pytest.approx(found.super_weights[0].gain, rel=1e-3)


def test_a_block_that_bends_what_it_writes_unseen_is_refused(planted, monkeypatch):
    """A family nobody listed is not half-measured: a write that no factor explains raises, planted or not."""
    subject = FAMILIES["Llama"].build(planted)
    mlp = subject.architecture.blocks[1].mlp
    forward = mlp.forward
    with planted_in(subject):
        monkeypatch.setattr(mlp, "forward", lambda x: forward(x).abs())
        with pytest.raises(UnknownArchitecture, match="does not add up"):
            scan(subject, TEXT)
    with pytest.raises(
        UnknownArchitecture, match=r"block 1 \(LlamaDecoderLayer\): what its MLP .* does not add up"
    ):
        scan(subject, TEXT)


def test_experts_whose_writes_do_not_add_up_are_refused(planted, monkeypatch):
    """Experts that do more than be weighted and summed are not read as if they did only that."""
    subject = FAMILIES["Mixtral"].build(planted)
    experts = subject.architecture.layout[1].experts.module
    forward = experts.forward
    calls = iter(range(100))
    monkeypatch.setattr(experts, "forward", lambda *a: forward(*a) * (3.0 if next(calls) == 0 else 1.0))
    with pytest.raises(UnknownArchitecture, match="does not add up"):
        trace(subject, TEXT)


def test_an_expert_edit_that_does_nothing_is_found(planted, monkeypatch):
    """If the experts computed with a copy of their parameter, the probe would tell."""
    subject = FAMILIES["Mixtral"].build(planted)
    with planted_in(subject) as place:
        projection = subject.architecture.projection(place)
        frozen = projection.probe(torch.arange(INTERMEDIATE)).clone()
        monkeypatch.setattr(type(projection), "answer", lambda self, x: x @ frozen)
        with pytest.raises(EditFailed, match="did not take effect"), edited(subject, [Prune(place)]):
            pass


def test_an_overflow_is_refused_and_not_called_nothing_found(planted):
    """In float16 a stream beyond 65,504 is infinite: the block and the dtype are named."""
    subject = FAMILIES["Llama"].build(planted)
    with planted_in(subject) as place:
        subject.architecture.projection(place).weight()[place.row, place.col] *= 1e4
        subject.model.to(torch.float16)
        with pytest.raises(NotFinite, match=r"block 1: float16"):
            scan(subject, TEXT)


def test_conditions_ride_in_one_pass(tiny, family):
    """Pruned beside the intact rows, as pruned alone; an expert's scalar is pruned alone."""
    ids = torch.tensor([tiny.encode(TEXT)[:6], tiny.encode(TEXT)[1:7]])
    with planted_in(tiny) as place:
        conditions = [Condition("pruned", (Prune(place),))]
        assert can_batch(tiny, conditions) is (place.expert is None)
        alone = decode_one_by_one(tiny, ids, conditions).hidden
        together = (decode_batched if place.expert is None else decode_one_by_one)(
            tiny, ids, conditions
        ).hidden
    for name, hidden in alone.items():
        torch.testing.assert_close(together[name], hidden, rtol=1e-4, atol=1e-4)
    assert not torch.equal(together["pruned"], together["intact"])
