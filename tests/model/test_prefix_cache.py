"""Going on from the middle gives the same bits as a whole pass."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch

from superweight.core.coordinates import Coordinate
from superweight.model.edits import Prune, edited
from superweight.model.prefix_cache import Prefix, keeping_prefixes, resumed


@pytest.mark.parametrize("block", [0, 1, 2, 3])
def test_a_resumed_pass_equals_a_whole_one(planted, block):
    """Intact and edited, from any block on, the logits are equal bit for bit."""
    ids = torch.tensor([planted.encode("The tide turned."), planted.encode("A bell rang out.")])
    edits = [Prune(Coordinate(3, 1, 2)), Prune(Coordinate(3, 5, 6))]
    with torch.no_grad():
        with keeping_prefixes(planted, [block]) as prefixes:
            whole = planted.model(input_ids=ids, use_cache=False).logits
        with edited(planted, edits):
            whole_edited = planted.model(input_ids=ids, use_cache=False).logits
        with resumed(planted, prefixes[block]):
            again = planted.model(input_ids=ids, use_cache=False).logits
            with edited(planted, edits):
                again_edited = planted.model(input_ids=ids, use_cache=False).logits
        after = planted.model(input_ids=ids, use_cache=False).logits
    assert torch.equal(whole, again)
    assert torch.equal(whole_edited, again_edited)
    assert torch.equal(whole, after)
    assert not torch.equal(whole, whole_edited)


def test_the_first_sequence_is_handed_on_in_what_the_block_returns():
    """Reformer's blocks return a named tuple, and the next one reads it by its names."""
    returned = namedtuple("Returned", ["attn_output", "hidden_states", "buckets"])  # as there
    whole = returned(torch.ones(2, 3, 4), torch.zeros(2, 3, 4), None)
    first = Prefix(1, whole).of_first_sequence().output
    assert returned is type(first)
    assert ((1, 3, 4), (1, 3, 4), None) == (first.attn_output.shape, first.hidden_states.shape, first.buckets)
