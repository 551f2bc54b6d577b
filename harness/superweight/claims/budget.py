"""Keep a check within a length of time: judge what fits, and say what the rest would need."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from superweight.claims.plan import Plan
from superweight.claims.verdict import INCONCLUSIVE, Claim, Verdict


class Budget:
    """Seconds that a check may take from now on, by a plan; ``clock`` gives the time in seconds."""

    def __init__(self, seconds: float, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.plan = plan
        self._clock = clock
        self._end = clock() + seconds
        self._begun: set[tuple[str, ...]] = set()

    @property
    def left(self) -> float:
        return self._end - self._clock()

    def affords(self, token_blocks: float) -> bool:
        """Tell whether what is left is enough for so many token-blocks more."""
        return token_blocks * self.plan.seconds_per_token_block <= self.left

    def refusal(self, claim: Claim) -> Verdict | None:
        """Return the verdict on a claim that does not fit any more, or None; what is shared counts once."""
        step = self.plan.step_of(claim.id)
        if step is None or step.claims in self._begun:
            return None
        needed = step.seconds.least
        if needed <= self.left:
            self._begun.add(step.claims)
            return None
        reason = (
            f"not measured: it needs {needed:.3g} s, and {max(self.left, 0):.3g} s of the budget are left"
        )
        return Verdict(claim, INCONCLUSIVE, reason, unmet=f"{needed:.3g} s")


def cheapest_first(claims: Iterable[Claim], plan: Plan) -> list[Claim]:
    """Return claims by what each costs at least, those that the scan has answered first.

    What several claims share is divided among them: a step that decides five tells more than one that
    decides one and takes as long.
    """

    def cost(claim: Claim) -> float:
        step = plan.step_of(claim.id)
        return 0.0 if step is None else step.seconds.least / len(step.claims)

    return sorted(claims, key=cost)


def cut_short(verdict: Verdict, windows: int, all_windows: int) -> Verdict:
    """Mark a verdict that was still in doubt when the budget ended its reading."""
    unmet = f"more than {windows} of {all_windows} windows"
    # What says nothing so far, for want of text, may say something yet.
    return replace(
        verdict,
        status=INCONCLUSIVE,
        unmet=unmet,
        reason=f"{verdict.reason}; the budget ended: it needs {unmet}",
    )
