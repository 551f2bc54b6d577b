"""The accuracies behind a verdict on C15, as a table for the terminal."""

from __future__ import annotations

from superweight.claims.verdict import Verdict


def accuracy_lines(verdict: Verdict) -> list[str]:
    """Return Markdown: for each task accuracy ± standard error, intact, pruned and restored."""
    rows = verdict.evidence.get("accuracy", {})
    if not rows:
        return []
    lines = ["| task | items | guessing | intact | pruned | restored |", "|---|---|---|---|---|---|"]
    for task, row in rows.items():
        cells = [
            f"{row[name]['accuracy'].value:.3f} ± {row[name]['standard_error'].value:.3f}"
            for name in ("intact", "pruned", "restored")
        ]
        lines.append(f"| {task} | {row['items']} | {row['guessing'].value:.2f} | {' | '.join(cells)} |")
    return lines
