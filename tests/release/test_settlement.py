"""What the files show is settled by predictions where those have seen it, and by nothing else."""

from __future__ import annotations

import pytest

from superweight.checkpoints.model_ref import parse_model
from superweight.checkpoints.registry import resolve
from superweight.core.coordinates import Coordinate
from superweight.release.compare import CompareRequest, compare
from superweight.release.config_checks import compare_settings
from superweight.release.result import (
    ACTIVATIONS,
    DEGRADED,
    KEPT,
    QUALITY,
    STATIC,
    Check,
    broken,
    within,
)
from superweight.release.settlement import EMPTIED, FUNCTION, settled

from .measured_base import measured_base
from .releases import make, scaled
from .symmetries import SYMMETRIES, channels_permuted, rotated

BASE = {
    "model_type": "llama",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
SHORT, LONG = "perplexity", "perplexity beyond 512 tokens"


def predictions(*names, status=KEPT):
    return [Check(QUALITY, name, status, "") for name in names]


def told(change, *others):
    check, *_ = settled([compare_settings(BASE, BASE | change), *others])
    return check.status


def rope(**changes):
    return {"rope_parameters": BASE["rope_parameters"] | changes}


@pytest.mark.parametrize(
    ("change", "seen", "status"),
    [
        # Every token's numbers depend on it: any text shows it.
        ({"rms_norm_eps": 1e-6}, predictions(SHORT), "changed"),
        ({"rms_norm_eps": 1e-6}, predictions(SHORT, status=DEGRADED), "changed"),
        ({"rms_norm_eps": 1e-6}, predictions(SHORT, status="damaged"), "damaged"),
        ({"rms_norm_eps": 1e-6}, [], "damaged"),
        # Positions: only long windows show them.
        (rope(rope_theta=1e6), predictions(SHORT), "damaged"),
        (rope(rope_theta=1e6), predictions(SHORT, LONG), "changed"),
        ({"sliding_window": 512}, predictions(SHORT, LONG), "changed"),
        # What first acts beyond the text that was read.
        ({"sliding_window": 4096}, predictions(SHORT, LONG), "damaged"),
        ({"sliding_window": 1024}, predictions(SHORT, LONG), "damaged"),
        ({"sliding_window": 1023}, predictions(SHORT, LONG), "changed"),
        (
            {"max_position_embeddings": 2048} | rope(rope_type="dynamic", factor=2.0),
            predictions(SHORT, LONG),
            "damaged",
        ),
        (
            {"max_position_embeddings": 512} | rope(rope_type="dynamic", factor=2.0),
            predictions(SHORT, LONG),
            "changed",
        ),
        (
            {"max_position_embeddings": 8192} | rope(rope_type="dynamic", factor=2.0),
            predictions(SHORT, LONG),
            "changed",
        ),
    ],
)
def test_a_setting_is_settled_by_text_that_shows_it(change, seen, status):
    """Sound predictions take it back, worse ones say so themselves, damaged ones leave it standing."""
    assert status == told(change, *seen)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (rope(rope_theta=1e6), "changed"),
        (rope(rope_theta=1e6) | {"rms_norm_eps": 1e-6}, "damaged"),
        ({"sliding_window": 512}, "damaged"),
        ({"hidden_act": "gelu"}, "damaged"),
    ],
)
def test_the_files_alone_call_positions_turned_otherwise_a_change(change, status):
    """A model that is tuned for longer text has another rope; nobody tunes another activation."""
    assert status == told(change, within(STATIC, "structure", "", 0.0))


@pytest.mark.parametrize(
    ("of_tokens", "seen", "status"),
    [
        (False, predictions(SHORT), "changed"),
        (False, predictions(SHORT, status=DEGRADED), "changed"),
        (False, predictions(SHORT, status="damaged"), "damaged"),
        (False, [], "damaged"),
        (True, predictions(SHORT), "damaged"),
    ],
)
def test_an_emptied_row_is_settled_by_text_unless_it_is_a_token_s_own(of_tokens, seen, status):
    """Every token passes through a projection; a token that was not read vouches for nothing."""
    check, *_ = settled([broken(STATIC, EMPTIED, "emptied", of_tokens=of_tokens), *seen])
    assert status == check.status


@pytest.mark.parametrize(("low", "status"), [(1.0, "changed"), (1.01, "changed"), (1.02, "degraded")])
def test_what_text_pays_for_an_emptied_row_is_told(low, status):
    """A ratio of 1.11 is below every limit; that rows were emptied says where it comes from."""
    seen = within(QUALITY, SHORT, "", 0.5, ratio=1.11, interval=[low, 1.2])
    check, *_ = settled([broken(STATIC, EMPTIED, "emptied", of_tokens=False), seen])
    assert status == check.status


def compared(change, folder, *depths):
    entry = resolve("tiny-planted")
    release = make(entry.root / entry.source, folder / "release", change, [Coordinate(1, 41, 23)])
    request = CompareRequest(parse_model("tiny-planted"), parse_model(str(release)), depths=depths)
    return compare(request, held=measured_base())


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        *((name, depth) for name in SYMMETRIES for depth in (STATIC, QUALITY)),
        ("signs of channels flipped", ACTIVATIONS),
    ],
)
def test_no_depth_by_itself_calls_the_same_function_damaged(name, depth, tmp_path):
    """The files say changed at most, the pass shows the same function, the predictions are the base's."""
    assert compared(SYMMETRIES[name], tmp_path, depth).verdict in ("kept", "cannot be judged")


@pytest.mark.parametrize(
    ("excess", "function", "seen", "status"),
    [
        (3.0, [KEPT], [], "changed"),
        (3.0, [KEPT, KEPT], predictions(SHORT), "changed"),
        # Pruned, or of another sign.
        (float("inf"), [KEPT], [], "damaged"),
        (3.0, [KEPT, "damaged"], [], "damaged"),
        (3.0, [KEPT], predictions(SHORT, status="damaged"), "damaged"),
    ],
)
def test_another_value_is_settled_by_what_it_does(excess, function, seen, status):
    """It is none where every jump of the stream is the base's and no text was found to suffer."""
    scalar = Check(STATIC, "super weight [1, 41, 23]", "damaged", "", excess=excess)
    jumps = [Check(ACTIVATIONS, FUNCTION, found, "") for found in function]
    assert status == settled([scalar, *jumps, *seen])[0].status


@pytest.mark.parametrize("name", SYMMETRIES)
def test_the_files_and_a_pass_together_call_no_same_function_damaged(name, tmp_path):
    """A scalar of another value writes what the base's did, as those that AWQ scales."""
    assert "damaged" != compared(SYMMETRIES[name], tmp_path, STATIC, ACTIVATIONS).verdict


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0, -1.0])
def test_the_files_and_a_pass_together_find_a_scalar_that_changed_alone(factor, tmp_path):
    """What feeds it stayed as it was."""
    assert "damaged" == compared(scaled(factor), tmp_path, STATIC, ACTIVATIONS).verdict


@pytest.mark.parametrize("factor", [0.0, -1.0])
def test_a_super_weight_pruned_or_flipped_in_its_row_is_damage_by_the_files_alone(factor, tmp_path):
    """All else of the row being the base's, nothing has moved."""
    assert "damaged" == compared(scaled(factor), tmp_path, STATIC).verdict


def test_a_super_weight_that_was_flipped_is_no_mirrored_channel(tmp_path):
    """Its neuron does as much along the stream; the channel's sign before the first block gives it away."""
    assert "damaged" == compared(scaled(-1.0), tmp_path, ACTIVATIONS).verdict


@pytest.mark.parametrize("change", [channels_permuted, rotated])
def test_what_pruning_does_at_the_base_s_places_decides_nothing_where_predictions_are_sound(change, tmp_path):
    """What carries a permuted model lies elsewhere; its perplexity is the base's."""
    checks = {check.name: check for check in compared(change, tmp_path, QUALITY).checks}
    assert ("kept", "changed") == tuple(
        checks[name].status for name in ("perplexity", "what the super weights carry")
    )
