"""What the README shows of `make check` is what it prints."""

from __future__ import annotations

import re
from pathlib import Path

from superweight.claims.baselines import baseline_path, read

REPOSITORY = Path(__file__).parents[2]
BASELINES = REPOSITORY / "tests" / "claims" / "baselines"
ROW = re.compile(r"│ (C\d+) +│ (\w+) +│ (\w+) \(baseline\) +│ .* is (\S+) \[(\S+), (\S+)\]; supported when")


def test_the_rows_are_those_of_the_committed_baseline():
    """Status, statistic and interval, as the command writes numbers, within the baseline's tolerance."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    rows = ROW.findall(text)
    assert ["C3", "C9"] == [claim for claim, *_ in rows]
    for claim, status, expected, *numbers in rows:
        stored = read(baseline_path(BASELINES, "smollm2-135m-instruct-q4_1", "cpu", "float32", claim))
        assert status == expected == stored["status"]
        criterion = stored["criteria"][0]
        for shown, number in zip(numbers, [criterion["statistic"], *criterion["interval"]], strict=True):
            assert re.fullmatch(r"\d{1,3}(,\d{3})*(\.\d+)?", shown), shown
            assert abs(float(shown.replace(",", "")) - number["value"]) <= number["within"]
