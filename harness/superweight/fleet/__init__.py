"""Run scans, checks and comparisons of many models over Ray, and keep an index of what came of them.

>>> from superweight.fleet import run
>>> result = run("fleet.toml", "out")  # doctest: +SKIP
>>> result.counts["as expected"]  # doctest: +SKIP
12
"""

from superweight.fleet.driver import Counts, Result, run

__all__ = ["Counts", "Result", "run"]
