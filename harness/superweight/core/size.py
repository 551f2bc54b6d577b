"""Read sizes as people write them: 500MB, 20GB, 1.5TB."""

from __future__ import annotations

import re

from superweight.core.errors import BadInput

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[KMGT]?)B?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Return the bytes that a text such as ``20GB`` names; a unit is a power of 1000.

    Raises `BadInput` for what is no size.

    >>> parse_size("1.5MB")
    1500000
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadInput(f"{text!r}, which is no size; write bytes, or 500MB, 20GB, 1.5TB")
    return int(float(match["number"]) * _UNITS[match["unit"].upper()])
