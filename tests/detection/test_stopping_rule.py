"""When the first blocks of a model settle what its super weights are, and when they do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.stopping_rule import truncated
from benchmarks.synthetic import Maker, decoders
from superweight.detection import stopping_rule
from superweight.detection.detect import detect
from superweight.detection.stopping_rule import CARRIES, MASSIVE, Depth, Until, ends_pass, settled


@pytest.fixture(scope="module")
def planted():
    """A trace of thirty blocks with one massive activation, and where it begins."""
    maker = Maker(5)
    while True:
        trace = maker.one().trace()
        (item, *_) = detect(trace).strongest
        ratio = abs(item.magnitude) / trace.typical[-1]
        if ratio > 2 * MASSIVE and item.onset + CARRIES + 2 < trace.blocks:
            return trace, item


def test_it_is_settled_once_it_was_carried(planted):
    """Not in the block that makes it, nor in the one after, but after so many."""
    trace, item = planted
    depths = [count for count in range(1, trace.blocks + 1) if settled(truncated(trace, count)) is not None]
    # A quarter of what was seen must be spanned, as of a whole model.
    assert max(item.onset + CARRIES + 1, 1) <= depths[0] <= 4 * (item.onset + CARRIES + 1) / 3 + 1
    found = settled(truncated(trace, depths[0]))
    assert detect(trace).coordinates == found.coordinates


def test_what_still_grows_or_shrinks_is_not_settled(planted):
    """A tenth more from one block to the next is a change."""
    trace, item = planted
    count = min(trace.blocks, 2 * (item.onset + CARRIES + 1))
    seen = truncated(trace, count)
    assert settled(seen) is not None
    residual = seen.residual.copy()
    residual[-1, item.token, item.channel] *= 0.85
    assert settled(replace(seen, residual=residual)) is None


def test_what_is_not_massive_is_not_settled(planted, monkeypatch):
    """However long it is carried: the real model has such a plateau, and makes another one later."""
    trace, item = planted
    seen = truncated(trace, min(trace.blocks, 2 * (item.onset + CARRIES + 1)))
    ratio = abs(float(seen.residual[-1, item.token, item.channel])) / float(seen.typical[-1])
    monkeypatch.setattr(stopping_rule, "MASSIVE", 0.99 * ratio)
    assert settled(seen) is not None
    monkeypatch.setattr(stopping_rule, "MASSIVE", 1.01 * ratio)
    assert settled(seen) is None


def test_an_activation_without_a_maker_is_never_settled():
    """Where no scalar makes it, the pass goes on to the end."""
    maker = Maker(3)
    for _ in range(10):
        trace = maker.diffuse().trace()
        assert all(settled(truncated(trace, count)) is None for count in range(1, trace.blocks + 1))


def test_noise_is_never_settled():
    """Eighteen traces of nothing, at every depth."""
    for decoder in decoders(6, seed=2):
        if decoder.kind in (
            "nothing but large noise",
            "an ordinary large channel",
            "in the embedding already",
        ):
            trace = decoder.trace()
            assert all(settled(truncated(trace, count)) is None for count in range(1, trace.blocks + 1))


def test_a_pass_goes_on_where_the_copy_still_has_the_activation(planted):
    """What is pruned and made all the same is not settled; nor is anything after the last block."""
    trace, _ = planted
    told = []
    seen = ends_pass(Until(), trace.blocks, lambda found, trace: False, told.append)
    assert not any(seen(truncated(trace, count)) for count in range(1, trace.blocks + 1))
    ending = ends_pass(Until(), trace.blocks, lambda found, trace: True, told.append)
    ends = [count for count in range(1, trace.blocks + 1) if ending(truncated(trace, count))]
    # The next block is held back in the one before.
    told.clear()
    for count in range(1, ends[0]):
        ending(truncated(trace, count))
    assert told[-1] is True


def test_a_pass_ends_after_so_many_blocks(planted):
    """Whatever was seen; without a number it goes on to the end."""
    trace, _ = planted
    seen = ends_pass(Until(None, 3), trace.blocks, lambda *_: True, lambda _: None)
    assert [False, False, True] == [seen(truncated(trace, count)) for count in (1, 2, 3)]
    full = ends_pass(Until(None), trace.blocks, lambda *_: True, lambda _: None)
    assert not any(full(truncated(trace, count)) for count in range(1, trace.blocks + 1))


def test_a_depth_says_how_far_was_looked():
    """Blocks count from zero."""
    assert "seen through block 6 of 126" == str(Depth(7, 126, settled=True))
    assert Depth(4, 4).whole
