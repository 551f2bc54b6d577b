"""Write numbers and names as a person would."""

from __future__ import annotations

import math
from pathlib import Path

# From ten of them on a number is counted in these.
_WORDS = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def readable(value: float, digits: int = 4) -> str:
    """Write a number to so many digits: 15,038 and 0.00002, where a machine writes 1.504e+04 and 2e-05."""
    size = abs(value)
    if not math.isfinite(value) or size >= 1e16 or 0 < size < 1e-9:
        return f"{value:.{digits}g}"
    for unit, word in _WORDS:
        if size >= 10 * unit:
            return f"{readable(value / unit, digits)} {word}"
    if size >= 1000:
        return f"{value:,.0f}"
    if size and size < 1e-4:
        return f"{value:.{1 - math.floor(math.log10(size))}f}".rstrip("0")
    return f"{value:.{digits}g}"


def times(ratio: float) -> str:
    """Write a ratio: x1.04, x1.4, x23, x15,038."""
    if not math.isfinite(ratio):
        return f"x{ratio:g}"
    if ratio < 1.1:
        return f"x{ratio:.2f}" if ratio >= 0.01 else f"x{readable(ratio, 2)}"
    if ratio < 10:
        return f"x{ratio:.1f}"
    return f"x{ratio:.0f}" if ratio < 1000 else f"x{readable(ratio)}"


def titled(model: str) -> str:
    """Return how a model is called in headings: one named by its file or folder reads as that file's name."""
    path = Path(model)
    named_by_path = model.startswith(("/", "./", "../", "~")) or path.suffix in (".gguf", ".safetensors")
    return path.name if named_by_path and path.name else model
