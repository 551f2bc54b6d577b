"""Judge a claim on more and more windows of text, and stop once the verdict is decided."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from superweight.claims.budget import cut_short
from superweight.claims.verdict import REFUTED, SUPPORTED, Verdict
from superweight.core.statistics import jackknife
from superweight.measurement.sequential import Look

if TYPE_CHECKING:
    from superweight.claims.evidence import Evidence

_Look = TypeVar("_Look")

# In nats, a hundredth of the perplexity: a tenth of what makes a release degraded. Of a loss that is
# certainly smaller no share means anything, however much more text is read.
NOTHING_LOST = math.log(1.01)


@dataclass(frozen=True)
class SequentialTest:
    """A claim as a group-sequential test.

    ``judge`` gives the verdict at a look. ``rests_on`` names the conditions that its criteria rest on, as
    far as they are in doubt there: those are measured on more windows, and what is evidence beside them
    stays as the first look had it. ``of_stream`` says that it is measured in transformers, whatever engine
    measures the others. The intervals must allow for several looks:
    `superweight.core.statistics.jackknife`.
    """

    judge: Callable[[Look], Verdict]
    rests_on: Callable[[Look], Collection[str]]
    of_stream: bool = False

    def needs(self, look: Look) -> Collection[str]:
        """Return the conditions to be read on; none once the verdict is for or against."""
        return () if decided(self.judge(look)) else self.rests_on(look)

    def verdict(self, look: Look) -> Verdict:
        """Return the verdict at a look, with how many windows it took among its evidence.

        Where conditions that are evidence were not read on, it says how many windows those have.
        """
        verdict = self.judge(look)
        fewest = min((len(item.nll) for item in look.measurements.values()), default=look.windows)
        others = {"windows_of_others": fewest} if fewest < look.windows else {}
        return replace(verdict, evidence={**verdict.evidence, "windows": look.windows, **others})


def read_on(evidence: Evidence, test: SequentialTest | Verdict) -> Verdict:
    """Return the verdict of a test on as few windows as it takes; a verdict as it is."""
    if isinstance(test, Verdict):
        return test
    sequential = evidence.sequential_of_stream if test.of_stream else evidence.sequential
    seen: list[Look] = []

    def judge(look: Look) -> Verdict:
        seen.append(look)
        return test.verdict(look)

    verdict = settled(sequential.follow(test.needs), judge, test.needs)
    look = seen[-1]
    if evidence.budget is None or not test.needs(look) or look.windows == sequential.windows:
        return verdict
    return cut_short(verdict, look.windows, sequential.windows)


def loses_nothing(look: Look, condition: str) -> bool:
    """Tell whether a condition certainly loses next to nothing, so that more text would show no share of it.

    A futility rule: it ends a test as not applicable earlier, and decides for or against nothing.
    """
    return jackknife(look.nll_increase(condition)).high < NOTHING_LOST


def decided(verdict: Verdict) -> bool:
    """Tell whether a verdict is for or against, so that more text would change nothing."""
    return verdict.status in (SUPPORTED, REFUTED)


def settled(
    looks: Iterable[_Look],
    judge: Callable[[_Look], Verdict],
    needs: Callable[[_Look], Collection[str]] | None = None,
) -> Verdict:
    """Return the first verdict that is for or against, or the one over all the text.

    A look that ``needs`` nothing more is the last as well.
    """
    for look in looks:
        verdict = judge(look)
        if decided(verdict) or (needs is not None and not needs(look)):
            break
    return verdict
