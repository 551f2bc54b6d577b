"""Write the accuracies behind a verdict on C15 as a table for the terminal."""

from __future__ import annotations

from superweight.claims.verdict import Verdict
from superweight.core.markdown import table


def accuracy_lines(verdict: Verdict) -> list[str]:
    """Return Markdown: for each task accuracy ± standard error, intact, pruned and restored."""
    rows = verdict.evidence.get("accuracy", {})
    if not rows:
        return []
    conditions = ("intact", "pruned", "restored")
    return table(
        ("task", "items", "guessing", *conditions),
        [
            (
                task,
                row["items"],
                f"{row['guessing'].value:.2f}",
                *(
                    f"{row[name]['accuracy'].value:.3f} ± {row[name]['standard_error'].value:.3f}"
                    for name in conditions
                ),
            )
            for task, row in rows.items()
        ],
    )
