"""A super weight planted in a random model of Llama-7B's shape on CUDA, and in a small one everywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from superweight.core.coordinates import Coordinate
from superweight.core.errors import NotFinite
from superweight.detection.run_trace import trace
from superweight.detection.scan import SUPPRESSED, head_room, scan
from superweight.measurement.corpus import cut, documents
from superweight.measurement.evaluate import INTACT, Condition, measure, predicted
from superweight.model.edits import Prune, Scale, edited
from superweight.model.placement import need
from superweight.model.subject import free
from tests.helpers.live_models import activity, logits, set_scalars

from .sizes import PRODUCT, SEVEN_B, SIZES, TEXT


@pytest.fixture(scope="module", params=SIZES)
def size(request):
    return request.param


@pytest.fixture(scope="module")
def random_model(size, planted):
    subject = size.build(planted)
    yield subject
    free(subject)


@pytest.fixture
def subject(random_model, size):
    """The model with its super weight."""
    value = PRODUCT / activity(random_model, size.place, TEXT)
    with set_scalars(random_model, {size.place: value}):
        yield random_model


@pytest.fixture
def windows(subject):
    return cut(subject, documents("builtin"), "builtin", count=8)


def test_a_random_model_has_none(random_model):
    """What is found below was planted."""
    assert () == scan(random_model, TEXT).coordinates


def test_it_is_found_at_its_place_and_nowhere_else(subject, size):
    """One pass finds the coordinate, a second confirms that pruning it is enough."""
    found = scan(subject, TEXT)
    assert ((size.place,), SUPPRESSED, 1) == (found.coordinates, found.stop_reason, found.passes)
    assert (size.place.layer, size.place.row) == (found.strongest.onset, found.strongest.channel)
    assert PRODUCT == pytest.approx(abs(found.strongest.magnitude), rel=0.05)
    assert 1 == found.ranks[size.place]


def test_it_is_pruned_and_restored_bit_for_bit(subject, size):
    """Pruning changes the logits; afterwards every logit, and the matrix, is as it was."""
    matrix = subject.architecture.projection(size.place).weight()
    before, stored = logits(subject, TEXT), matrix.clone()
    with edited(subject, [Prune(size.place)]):
        assert 0.0 == subject.architecture.value(size.place)
        assert not torch.equal(before, logits(subject, TEXT))
    assert torch.equal(before, logits(subject, TEXT))
    assert torch.equal(stored, matrix)


def test_it_is_edited_through_the_output_as_well(subject, size):
    """A correction of the module's output does what the write does, within the dtype's rounding."""
    with edited(subject, [Prune(size.place)]):
        written = trace(subject, TEXT).residual
    with edited(subject, [Prune(size.place)], by_hook=True):
        corrected = trace(subject, TEXT).residual
    # The correction takes away what was added at the super activation's size, and rounds there.
    step = torch.finfo(size.dtype).eps * PRODUCT
    assert written == pytest.approx(corrected, abs=64 * step)


def test_conditions_measured_together_are_those_measured_alone(subject, size, windows):
    """What `measure` resumes from the middle of an intact pass equals whole passes of each condition."""
    other = Coordinate(size.place.layer + 1, size.place.row, size.place.col)
    conditions = [
        Condition("pruned", (Prune(size.place),)),
        Condition("halved", (Scale(size.place, 0.5),)),
        Condition("another block", (Prune(other),)),
    ]
    together = measure(subject, windows, conditions)
    ids = torch.from_numpy(windows.ids).to(subject.device)
    for condition in [Condition(INTACT), *conditions]:
        alone = []
        with edited(subject, condition.scales):
            for batch in ids.split(8):
                chosen = predicted(subject, batch).gather(-1, batch[:, 1:, None])[..., 0]
                alone.append(-chosen.double().cpu().numpy())
        # Logits are rounded to the dtype; none of these is larger than 64.
        assert np.concatenate(alone) == pytest.approx(
            together[condition.name].nll, abs=64 * torch.finfo(size.dtype).eps
        )


def test_the_same_pass_twice_is_the_same_bits(subject):
    """With the deterministic settings nothing depends on the order of threads."""
    assert torch.equal(logits(subject, TEXT), logits(subject, TEXT))


@pytest.fixture
def half(random_model, size, planted):
    """The same model in float16; where it is that already, itself."""
    return random_model if size.dtype == torch.float16 else replace(size, dtype=torch.float16).build(planted)


def test_the_head_room_of_float16_is_told(half, size):
    """An activation of 5,000 takes 8 % of what float16 holds."""
    with set_scalars(half, {size.place: PRODUCT / activity(half, size.place, TEXT)}):
        share = head_room(half, scan(half, TEXT))["share"]["float16"]
    assert PRODUCT / torch.finfo(torch.float16).max == pytest.approx(share, rel=0.05)


def test_an_overflow_is_refused_and_named(half, size):
    """An activation over 65,504 is infinite in float16: the block and the dtype are named."""
    (write,) = trace(half, TEXT).writes[size.place.layer]
    token, col = np.unravel_index(abs(write.inputs).argmax(), write.inputs.shape)
    assert 65_504 < 60_000 * abs(write.inputs[token, col])
    place = replace(size.place, col=int(col))
    with set_scalars(half, {place: 60_000.0}), pytest.raises(NotFinite) as caught:
        scan(half, TEXT)
    assert place.layer == caught.value.layer
    assert "float16" in str(caught.value)


def test_freed_weights_take_no_memory(size, planted):
    """Though the subject is still held, nothing of its weights is; the next model has the room."""
    small = replace(size, shape={**size.shape, "num_hidden_layers": 1})
    before = torch.cuda.memory_allocated() if size.device == "cuda" else 0
    subject = small.build(planted)
    free(subject)
    assert 0 == sum(parameter.untyped_storage().nbytes() for parameter in subject.model.parameters())
    if size.device == "cuda":
        # A few constants of the position encoding may stay.
        assert torch.cuda.memory_allocated() - before < 2**20


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("size", [SEVEN_B], indirect=True, ids=["7B-cuda"])
def test_measuring_stays_within_the_plan(subject, size, windows):
    """Scanning and measuring take no more memory at their peak than the placement counts with."""
    weights = sum(parameter.nbytes for parameter in subject.model.parameters())
    torch.cuda.reset_peak_memory_stats()
    scan(subject, TEXT)
    measure(subject, windows, [Condition("pruned", (Prune(size.place),))])
    assert weights < torch.cuda.max_memory_allocated() <= need(weights)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("size", [SEVEN_B], indirect=True, ids=["7B-cuda"])
def test_what_does_not_fit_is_measured_in_halves(subject, size, windows, caplog):
    """Where CUDA has less memory than a look takes, it is measured in pieces, and that is told."""
    conditions = [Condition("pruned", (Prune(size.place),))]
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    whole = measure(subject, windows, conditions)
    taken = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 0.6 * taken) / total)
    try:
        parts = measure(subject, windows, conditions)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("out of memory" in message for message in caplog.messages)
    for name, each in whole.items():
        # Another number of rows is another kernel: logits below 64 may differ by two steps of the dtype.
        assert each.nll == pytest.approx(parts[name].nll, abs=128 * torch.finfo(size.dtype).eps)
