"""Write a verdict as JSON, for reports and baselines.

A number that was measured carries the tolerance that it is compared with,
``{"value": 1.5, "within": 0.03}``; counts, coordinates, words and stored scalars are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from superweight.claims.verdict import Measured, Verdict, measured


def record(model: str, verdict: Verdict, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a baseline keeps of a verdict."""
    return {
        "model": model,
        "claim": verdict.claim.id,
        "status": verdict.status,
        # Of the model's own pass nothing is said, as of every verdict before there was another engine.
        **({} if verdict.engine == Verdict.engine else {"engine": verdict.engine}),
        "criteria": [
            {
                "name": criterion.name,
                "statistic": to_json(criterion.statistic),
                "interval": [_end(criterion.statistic, end) for end in _ends(criterion.interval)],
                "threshold": criterion.threshold,
                "direction": criterion.direction,
            }
            for criterion in verdict.criteria
        ],
        "evidence": to_json(dict(verdict.evidence)),
        "provenance": dict(provenance),
    }


def _ends(interval: Any) -> tuple[float, float]:
    return interval.low, interval.high


def _end(statistic: Measured, end: float) -> Any:
    # The ends move with what the statistic moves with.
    return to_json(Measured(end, 0.0) if statistic.within == 0 else measured(end, absolute=statistic.within))


def to_json(value: Any) -> Any:
    """Return JSON values; what was measured becomes a number with its tolerance."""
    if isinstance(value, Measured):
        if value.within == 0:
            return {"value": value.value, "within": 0.0}
        return {"value": _digits(value.value, 6), "within": _digits(value.within, 3)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def _digits(value: float, count: int) -> float:
    return float(f"{value:.{count}g}")
