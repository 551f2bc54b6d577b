"""Fake-quantised subjects: what is computed with, what is proven, what is undone, what it costs."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from superweight.core.coordinates import Coordinate
from superweight.core.errors import EditFailed
from superweight.detection.scan import scan
from superweight.measurement.corpus import cut, default_prompt, documents
from superweight.model.architecture import inspect_architecture
from superweight.model.edits import Prune, edited
from superweight.quantization import activations
from superweight.quantization.activations import held_places, rounded_inputs, rounded_sequences
from superweight.quantization.clip_search import best_clips, reconstruction_errors
from superweight.quantization.granularity import PerGroup, PerRow, PerTensor
from superweight.quantization.integer_grid import INT4, INT8, round_
from superweight.quantization.linear_layers import matrices_of, readings_of
from superweight.quantization.losses import nll, split
from superweight.quantization.smoothquant import smoothing_factors
from superweight.quantization.weights import WeightRounding, fake_quantised
from tests.helpers.live_models import logits

PLACE = Coordinate(1, 41, 23)
COARSE = WeightRounding(INT4, PerTensor())


def bits(subject):
    return [matrix.weight().clone().view(torch.int32) for matrix in matrices_of(subject)]


@pytest.fixture(scope="module")
def text(planted):
    return split(cut(planted, documents("builtin"), "builtin"), 8)


@contextlib.contextmanager
def rounded_for_good(subject, rounding):
    """Write the rounded matrices into the model: what fake quantisation must be equal to."""
    stored = [(matrix, matrix.weight().clone()) for matrix in matrices_of(subject)]
    for matrix, weight in stored:
        matrix.weight().copy_(rounding.rounded(weight))
    yield
    for matrix, weight in stored:
        matrix.weight().copy_(weight)


def test_the_model_computes_with_the_rounded_matrices(planted):
    """Rounding on the way gives what writing the rounded matrices gives, bit for bit."""
    with rounded_for_good(planted, COARSE):
        expected = logits(planted)
    with fake_quantised(planted, COARSE):
        found = logits(planted)
    assert torch.equal(expected, found)
    assert not torch.equal(expected, logits(planted))


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_every_exit_leaves_every_bit(planted, error):
    """The stored matrices are never written; what computes with them is put back, whatever happens."""
    before, untouched = bits(planted), logits(planted)
    with contextlib.suppress(ValueError, KeyboardInterrupt), fake_quantised(planted, COARSE):
        logits(planted)
        if error is not None:
            raise error
    assert all(torch.equal(was, now) for was, now in zip(before, bits(planted), strict=True))
    assert torch.equal(untouched, logits(planted))


def test_an_error_inside_a_module_leaves_its_matrix(planted, monkeypatch):
    """A forward pass that breaks off in the middle leaves no rounded matrix behind."""
    module = matrices_of(planted)[5].module
    stored = module.weight

    def broken(*_):
        raise ValueError("broken")

    monkeypatch.setattr(module, "forward", broken)
    with pytest.raises(ValueError, match="broken"), fake_quantised(planted, COARSE):
        logits(planted)
    assert stored is module.weight


def test_a_held_out_super_weight_is_computed_with_exactly(planted):
    """The module's own answer shows the scalar as stored, and its neighbours rounded."""
    beside = Coordinate(1, 41, 24)
    exact, other = planted.architecture.value(PLACE), planted.architecture.value(beside)
    with fake_quantised(planted, replace(COARSE, clip=3.0), hold_out=[PLACE]):
        assert exact == planted.architecture.value(PLACE)
        assert other != planted.architecture.value(beside)
    with fake_quantised(planted, replace(COARSE, clip=3.0)):
        assert planted.architecture.value(PLACE) < exact / 2


def test_a_pruned_set_stays_pruned_under_rounding(planted):
    """An edit outside is what is rounded inside: zero is on every grid."""
    with edited(planted, [Prune(PLACE)]):
        with fake_quantised(planted, COARSE):
            assert 0.0 == planted.architecture.value(PLACE)


def test_a_module_that_ignores_its_weight_is_found_out(planted, monkeypatch):
    """The first pass through every module proves that it computes with the rounded matrix."""
    module = matrices_of(planted)[3].module
    frozen = module.weight.detach().clone()
    monkeypatch.setattr(module, "forward", lambda x: nn.functional.linear(x, frozen))
    with pytest.raises(EditFailed, match=r"block 0, self_attn.o_proj did not take effect"):
        with fake_quantised(planted, COARSE):
            logits(planted)


def test_a_matrix_that_no_pass_reaches_is_found_out(planted):
    """A pass that leaves a block out would count as rounded and was not."""
    block = planted.architecture.blocks[2]

    def shortened():
        with fake_quantised(planted, COARSE), pytest.MonkeyPatch.context() as patch:
            patch.setattr(block, "forward", lambda hidden, **_: hidden)
            logits(planted)

    with pytest.raises(EditFailed, match=r"block 2, self_attn.q_proj was rounded in 0 of 1 passes"):
        shortened()


def test_a_write_to_a_matrix_in_between_is_found_out(planted):
    """Nothing may be edited under the rounding: what is undone is what was there before."""
    matrix = matrices_of(planted)[0]

    def written():
        with fake_quantised(planted, COARSE):
            logits(planted)
            matrix.weight().mul_(1.0)

    with pytest.raises(EditFailed, match="written to"):
        written()


def peak(run):
    """Return the most bytes that were alive at once during ``run``, beyond those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    alive = most = 0
    events = recorded.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    for _, change in sorted(changes, key=lambda item: item[0]):
        alive += change
        most = max(most, alive)
    return most


def test_memory_stays_at_one_matrix_above_the_model(planted):
    """The peak of a rounded pass exceeds an intact one's by the largest matrix, and by little more."""
    largest = max(matrix.weight().nbytes for matrix in matrices_of(planted))
    whole = sum(matrix.weight().nbytes for matrix in matrices_of(planted))
    rounding = WeightRounding(INT4, PerGroup(1024), clip=9.0)
    token = torch.tensor([[3]])  # next to nothing but the matrices takes memory

    def run():
        with torch.no_grad():
            planted.model(input_ids=token, use_cache=False)

    def run_rounded():
        with fake_quantised(planted, rounding, hold_out=[PLACE]):
            run()
            run()

    intact, rounded = peak(run), peak(run_rounded)
    assert largest <= rounded - intact < 1.5 * largest < 0.1 * whole


def test_kept_copies_are_made_once_and_are_the_same(planted, monkeypatch):
    """Two passes round every matrix once, and predict what they predict with copies made anew."""
    calls = []
    original = WeightRounding.rounded
    monkeypatch.setattr(
        WeightRounding, "rounded", lambda *args, **options: calls.append(1) or original(*args, **options)
    )
    found = {}
    for keep in (False, True):
        calls.clear()
        with fake_quantised(planted, COARSE, keep=keep):
            first, second = logits(planted), logits(planted)
        assert torch.equal(first, second)
        found[keep] = first, len(calls)
    matrices = len(matrices_of(planted))
    assert (2 * matrices, matrices) == (found[False][1], found[True][1])
    assert torch.equal(found[False][0], found[True][0])


def test_an_input_that_several_matrices_read_is_rounded_once(planted, monkeypatch):
    """Query, key and value read one tensor, gate and up another: four roundings a block, not seven."""
    calls = []
    original = activations.rounded_sequences
    monkeypatch.setattr(activations, "rounded_sequences", lambda *given: calls.append(1) or original(*given))
    with rounded_inputs(planted, INT8, PerTensor()):
        logits(planted)
    assert 4 * len(planted.architecture.blocks) == len(calls)


def test_a_held_out_entry_is_of_its_own_matrix_alone(planted):
    """Where one of three matrices that read the same tensor holds an entry out, the others round it."""
    query, key, *_ = (matrix.module for matrix in matrices_of(planted))
    seen = {}
    places = {key: (torch.tensor([1]), torch.tensor([0]))}
    with rounded_inputs(planted, INT8, PerTensor(), hold_out=places), contextlib.ExitStack() as hooks:
        for module in (query, key):
            handle = module.register_forward_hook(
                lambda module, arguments, output: seen.setdefault(module, arguments[0])
            )
            hooks.callback(handle.remove)
        logits(planted)
    assert not torch.equal(seen[query], seen[key])


def test_what_is_read_behind_a_norm_is_known(planted):
    """Query, key, value share one normed input, gate and up another; the other two read no norm."""
    first = {reading.matrix.path: reading for reading in readings_of(planted, matrices_of(planted))[:7]}
    normed = {path for path, reading in first.items() if reading.normed}
    assert {
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
    } == normed
    assert 1 == len({first[f"self_attn.{name}_proj"].source for name in "qkv"})
    assert first["mlp.gate_proj"].source == first["mlp.up_proj"].source != first["self_attn.q_proj"].source


def test_activations_are_rounded_sequence_by_sequence():
    """One step a sequence, so that a window does not depend on its batch; one a token if asked."""
    inputs = (
        torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1, 10, 100])[:, None, None]
    )
    whole, token = (rounded_sequences(inputs, INT8, layout) for layout in (PerTensor(), PerRow()))
    for index, sequence in enumerate(inputs):
        assert torch.equal(round_(sequence.clone(), INT8, PerTensor()), whole[index])
        assert torch.equal(round_(sequence.clone(), INT8, PerRow()), token[index])


def test_a_held_out_activation_is_replaced_by_the_median_and_put_back():
    """The rest is rounded as if the median stood there; shorter sequences have nothing to hold out."""
    inputs = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    inputs[0, 3, 2] = 500.0
    places = torch.tensor([3]), torch.tensor([2])
    found = rounded_sequences(inputs, INT8, PerTensor(), places)
    replaced = inputs[0].clone()
    replaced[3, 2] = inputs[0].median()
    expected = round_(replaced, INT8, PerTensor())
    expected[3, 2] = 500.0
    assert torch.equal(expected, found[0])
    short = inputs[:, :2]
    assert torch.equal(
        rounded_sequences(short, INT8, PerTensor()), rounded_sequences(short, INT8, PerTensor(), places)
    )


def test_every_matrix_reads_rounded_inputs(planted):
    """As if every linear map were called with what it reads already rounded; undone afterwards."""
    before = logits(planted)
    module = matrices_of(planted)[0].module
    seen = []
    with rounded_inputs(planted, INT8, PerTensor()):
        handle = module.register_forward_hook(lambda _, arguments, output: seen.append(arguments[0]))
        rounded = logits(planted)
        handle.remove()
    assert len(seen[0].unique()) <= 255
    assert not torch.equal(before, rounded)
    assert torch.equal(before, logits(planted))


def test_a_matrix_that_reads_unrounded_is_found_out(planted):
    """A module called past its hooks would compute with what was not rounded."""
    module = matrices_of(planted)[6].module
    mlp = planted.architecture.blocks[0].mlp

    def past_its_hooks(x):
        return module.forward(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))

    def rounded():
        with rounded_inputs(planted, INT8, PerTensor()), pytest.MonkeyPatch.context() as patch:
            patch.setattr(mlp, "forward", past_its_hooks)
            logits(planted)

    with pytest.raises(EditFailed, match=r"what block 0, mlp.down_proj reads was rounded in 0 of 1 passes"):
        rounded()


def test_the_super_activation_is_held_out_where_it_is_read(planted):
    """Behind the norms of the blocks that carry it, and at the input that makes it."""
    found = scan(planted, default_prompt())
    (activation,) = found.super_activations
    places = {matrix.module: matrix for matrix in matrices_of(planted)}
    held = held_places(planted, found)
    by_path = {(places[module].layer, places[module].path): pair for module, pair in held.items()}
    assert (1, "mlp.down_proj") in by_path
    assert ([0], [23]) == tuple(index.tolist() for index in by_path[1, "mlp.down_proj"])
    for path in ("self_attn.q_proj", "mlp.up_proj"):
        assert ([0], [41]) == tuple(index.tolist() for index in by_path[2, path])
    assert (1, "mlp.up_proj") not in by_path
    assert (2, "self_attn.o_proj") not in by_path
    assert activation.channel == 41


def test_smoothing_by_itself_changes_nothing(planted, text):
    """Inputs divided and columns multiplied by the same factors: the product is what it was."""
    factors = smoothing_factors(planted, text.calibration)
    fine = WeightRounding(replace(INT8, bits=16), PerRow())
    plain = nll(planted, text.measured)
    with fake_quantised(planted, fine, smoothing=factors):
        with rounded_inputs(planted, replace(INT8, bits=16), PerRow(), smoothing=factors):
            smoothed = nll(planted, text.measured)
    assert float(abs(smoothed - plain).max()) < 0.005


def test_smoothing_follows_its_formula(planted, text):
    """s_j = max|X_j|^0.85 / max|W_j|^0.15, over all matrices that read the same tensor."""
    factors = smoothing_factors(planted, text.calibration)
    attention = planted.architecture.blocks[0].self_attn
    seen = []
    handle = attention.q_proj.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        planted.model(input_ids=text.calibration, use_cache=False)
    handle.remove()
    weights = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    read, written = seen[0].abs().flatten(0, 1).amax(0), weights.abs().amax(0)
    expected = (read.clamp_min(1e-5) ** 0.85 / written.clamp_min(1e-5) ** 0.15).clamp_min(1e-5)
    torch.testing.assert_close(factors[attention.q_proj], expected)
    assert factors[attention.q_proj] is factors[attention.v_proj]
    assert attention.o_proj not in factors


def test_z_is_chosen_by_least_reconstruction_error(planted, text):
    """The chosen one has the least error of all, and clipping what feeds the super weight does not."""
    candidates = [replace(COARSE, clip=z) for z in (3.0, 20.0, None)]
    errors = reconstruction_errors(planted, candidates, [PLACE], text.calibration)
    (chosen,) = best_clips(planted, [COARSE], [PLACE], text.calibration, (3.0, 20.0, None)).values()
    assert min(errors.values()) == errors[chosen]
    assert errors[candidates[0]] > 2 * errors[chosen]


def test_text_for_choosing_is_not_measured_on(planted, refusal):
    """Windows that z and the factors are chosen on are apart; too little text is refused."""
    windows = cut(planted, documents("builtin"), "builtin", count=20)
    parts = split(windows, 48)
    assert (12, 8) == (len(parts.measured), len(parts.calibration))
    both = torch.cat([parts.measured, parts.calibration])
    assert torch.equal(torch.from_numpy(windows.ids), both)
    short = replace(windows, ids=windows.ids[:15])
    assert "15 windows, and quantisation needs 16" in refusal(split, short, 48)


def test_quantised_weights_are_not_rounded_again(planted, refusal, monkeypatch):
    """A packed matrix is refused by name, before anything is changed."""
    module = matrices_of(planted)[0].module
    packed = nn.Parameter(module.weight.to(torch.int8), requires_grad=False)
    monkeypatch.setitem(module._parameters, "weight", packed)
    line = refusal(matrices_of, planted)
    assert "block 0, self_attn.q_proj (Linear) is quantised already" in line


def test_a_mixture_of_experts_is_refused(planted, refusal):
    """Experts in one 3-D parameter are no single linear maps."""
    import transformers

    config = transformers.MixtralConfig(
        vocab_size=257, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, num_local_experts=4,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config)
    subject = replace(planted, model=model, architecture=inspect_architecture(model))
    assert "several matrices in one parameter" in refusal(matrices_of, subject)
