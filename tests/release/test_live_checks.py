"""Two loaded models side by side, by hand: what is asked of which, and where a limit lies."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from superweight.release import live_checks, quality_checks, text_checks
from superweight.release.limits import Limits
from superweight.release.result import ACTIVATIONS, DEGRADED, KEPT

LIMITS = Limits(degraded_ratio=1.0, same_top=0.5)


def jump(layer, norm):
    return SimpleNamespace(layer=layer, token=layer + 10, norm=norm)


def test_the_stream_is_measured_at_its_first_jump_and_asked_for_at_the_others(monkeypatch):
    """The first is the largest; the release's own is found, and the others looked for at their places."""
    asked = {}
    before, after = [jump(1, 2.0), jump(2, 5.0), jump(3, 7.0)], [jump(1, 6.0), jump(2, 1.0)]
    scan = SimpleNamespace(super_activations=())
    side = SimpleNamespace(evidence=SimpleNamespace(scan=scan), subject=None, jumps=before)

    def jumps(subject, places):
        asked["places"] = places
        return after

    def compare(one, other, share, limits, stretch, where):
        asked.update(share=share, stretch=stretch, where=where)
        return []

    monkeypatch.setattr(live_checks, "_is_gguf", lambda subject: False)
    monkeypatch.setattr(
        live_checks, "largest_number", lambda subject: SimpleNamespace(magnitude=3.0, module="x")
    )
    monkeypatch.setattr(live_checks, "largest_of_dtype", lambda subject: 12.0)
    monkeypatch.setattr(live_checks, "jumps", jumps)
    monkeypatch.setattr(live_checks, "compare_activations", compare)
    live_checks.live_checks(side, side, (ACTIVATIONS,), LIMITS)
    assert {"places": [(2, 12), (3, 13)], "share": 0.25, "stretch": 3.0, "where": "x"} == asked


@pytest.mark.parametrize(("rise", "status"), [(0.0, KEPT), (0.01, DEGRADED)])
def test_what_lies_at_a_limit_is_within_it(rise, status):
    """A perplexity that is exactly as many times the base's as is allowed."""
    base = np.ones((4, 8))
    assert status == text_checks.risen("perplexity", base, base + rise, LIMITS).status


@pytest.mark.parametrize(("same", "status"), [(0.5, KEPT), (0.49, DEGRADED), (float("nan"), DEGRADED)])
def test_the_least_share_of_likeliest_tokens_is_allowed(monkeypatch, same, status):
    """Half of the positions, where that is the limit."""
    seen = SimpleNamespace(
        base=np.ones((4, 8)),
        release=SimpleNamespace(nll=np.ones((4, 8)), kl=np.zeros(4), top1_agreement=np.full(4, same)),
    )
    side = SimpleNamespace(loops=0.0)
    monkeypatch.setattr(quality_checks, "_incomparable", lambda *_: None)
    monkeypatch.setattr(quality_checks, "_predictions", lambda *_: seen)
    for name in ("compare_texts", "compare_replies"):
        monkeypatch.setattr(quality_checks, name, lambda *_: [])
    monkeypatch.setattr(quality_checks, "_still_carried", lambda *_: None)
    checks = [check for check in quality_checks.compare_quality(side, side, LIMITS) if check is not None]
    assert status == {check.name: check.status for check in checks}["likeliest token"]


def test_the_second_long_window_is_read_up_to_where_the_first_ones_limit_lies(monkeypatch):
    """Once each: the first as long as the base promises, of the second its beginning alone."""
    longest = text_checks.LONGEST
    windows = torch.arange(3 * longest).reshape(3, longest)
    read = []

    def losses(base, release, ids):
        read.append((int(ids[0, 0]), tuple(ids.shape)))
        return np.ones((len(ids), ids.shape[1] - 1)), np.ones((len(ids), ids.shape[1] - 1))

    monkeypatch.setattr(text_checks, "documents", lambda corpus: ["text"])
    monkeypatch.setattr(text_checks, "_positions", lambda side: longest)
    monkeypatch.setattr(text_checks, "_ids", lambda *_: windows)
    monkeypatch.setattr(text_checks, "_losses", losses)
    side = SimpleNamespace(evidence=SimpleNamespace(corpus="builtin"))
    checks = list(text_checks._long(side, side, LIMITS))
    assert [(0, (1, longest)), (longest, (1, text_checks.LONG))] == read
    assert ["perplexity on windows of 512 tokens", "perplexity beyond 512 tokens"] == [
        check.name for check in checks
    ]
