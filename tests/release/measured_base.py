"""A base that many tests hold their releases to: loaded and measured once."""

from __future__ import annotations

from functools import cache

from superweight.checkpoints.model_ref import parse_model
from superweight.release.compare import CompareRequest, loaded_base
from superweight.release.side import Side


@cache
def measured_base() -> Side:
    """Return tiny-planted as the base of a comparison, as `compare_all` holds one."""
    return loaded_base(CompareRequest(parse_model("tiny-planted"), parse_model("tiny-plain")))
