"""Choose how much a pytest run searches for counterexamples of the properties."""

from __future__ import annotations

import re

import pytest

from superweight.claims.properties.search import DEFAULT_EXAMPLES, SLOW_EXAMPLES, Budget
from superweight.core.environment import in_ci


def budget(config: pytest.Config) -> Budget:
    """Return the budget of a run: drawn anew each time, but under CI the same in every run.

    Examples that failed are kept beside hypothesis's own, in ``.hypothesis`` of the project.
    """
    count = config.option.sw_examples
    if count is None:
        slow = re.search(r"(?<!not )\bslow\b", config.option.markexpr or "") is not None
        count = SLOW_EXAMPLES if slow else DEFAULT_EXAMPLES
    if in_ci():
        return Budget(count)
    return Budget(count, derandomize=False, database=config.rootpath / ".hypothesis" / "superweight")
