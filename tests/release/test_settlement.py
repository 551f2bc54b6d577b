"""What the files show is settled by predictions where those have seen it, and by nothing else."""

from __future__ import annotations

import pytest

from superweight.release.config_checks import compare_settings
from superweight.release.result import DEGRADED, KEPT, QUALITY, STATIC, Check, within
from superweight.release.settlement import settled

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
