"""A release against its base, when one is given with --sw-base: what carries the model is kept.

The same comparison as ``superweight compare``; docs/compare.md has the limits and their reasons.
"""

from __future__ import annotations


def test_a_release_keeps_what_its_base_has(comparison):
    """Values in the files, activations in one forward pass, predictions on the same text."""
    assert "kept" == comparison.verdict, "; ".join(comparison.reasons)
