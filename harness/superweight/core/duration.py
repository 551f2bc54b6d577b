"""Read lengths of time as people write them: 90, 60s, 10min, 1.5h."""

from __future__ import annotations

import math
import re

from superweight.core.errors import BadInput

_UNITS = {"": 1, "s": 1, "min": 60, "h": 3600}


def parse_duration(text: str) -> float:
    """Return the seconds that a text such as ``60s`` or ``10min`` names.

    Raises `BadInput` for what is no length of time, or none at all.

    >>> parse_duration("1.5min")
    90.0
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|)", text.strip(), re.ASCII)
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not (seconds > 0 and math.isfinite(seconds)):
        raise BadInput(f"{text!r} is no length of time; give 60s, 10min or 1h, for example")
    return seconds
