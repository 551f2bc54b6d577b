"""What the gate said of every release beside the truth, as the table of docs/compare.md."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import gate_truth
from benchmarks.page import put
from superweight.release.result import DAMAGED, DEGRADED, DEPTHS, Check, Comparison
from superweight.release.settlement import settled

PAGE = Path(__file__).parents[1] / "docs" / "compare.md"
BEGIN = "<!-- table: python -m benchmarks gate -->"
COLUMNS = (*DEPTHS, "all")
RIGHT, MISS, FALSE_ALARM, UNJUDGED = "right", "missed", "false alarm", "not judged"
Row = dict[str, Any]


def verdicts(row: Row) -> dict[str, str]:
    """Return what each depth by itself says of a release, and all of them together."""
    checks = [
        Check(
            item["depth"],
            item["check"],
            item["status"],
            item["reason"],
            float(item["excess"]),
            item["figures"],
        )
        for item in row["judged"].get("checks", [])
    ]
    found = {}
    for name, depths in [*((depth, (depth,)) for depth in DEPTHS), ("all", DEPTHS)]:
        own = tuple(check for check in checks if check.depth in depths)
        required = depths if name != "all" else DEPTHS
        found[name] = Comparison("base", "release", settled(own), required).headline if own else "-"
    return found


def judgement(truth: str, verdict: str) -> str:
    """Say whether a verdict is right. What is worse and not broken may be called either, but not kept."""
    if not verdict.startswith(("kept", DAMAGED)):
        return UNJUDGED
    if truth == "sound":
        return FALSE_ALARM if verdict == DAMAGED else RIGHT
    if truth == "broken":
        return RIGHT if verdict == DAMAGED else MISS
    return RIGHT if verdict == DAMAGED or DEGRADED in verdict else MISS


def as_markdown(base: Row, rows: list[Row], date: str) -> str:
    """Return the counts by depth, and below them every release."""
    judged = [(row, gate_truth.verdict(base["truth"], row["truth"]), verdicts(row)) for row in rows]
    truths = Counter(truth for _, truth, _ in judged)
    lines = [
        f"Measured on {date}, {len(rows)} releases: truth calls {truths['sound']} sound, "
        f"{truths['broken']} broken and {truths['worse']} worse.",
        "",
        "| depth | sound: kept | sound: damaged | broken: damaged | broken: kept "
        "| worse: told | worse: kept | not judged by it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for column in COLUMNS:
        counts = Counter((truth, judgement(truth, said[column])) for _, truth, said in judged)
        told = [counts[kind] for kind in _COUNTED]
        unjudged = sum(count for (_, what), count in counts.items() if what == UNJUDGED)
        lines.append(f"| {column} | {' | '.join(map(str, told))} | {unjudged} |")
    lines += ["", "| release | truth | perplexity, worst of three | static | activations | quality | all |"]
    lines += ["|---|---|---|---|---|---|---|"]
    order = {"sound": 0, "worse": 1, "broken": 2}
    for row, truth, said in sorted(judged, key=lambda item: order[item[1]]):
        cells = [_cell(said[column], judgement(truth, said[column])) for column in COLUMNS]
        lines.append(f"| {row['name']} | {truth} | {_worst(base, row)} | {' | '.join(cells)} |")
    return "\n".join(lines)


_COUNTED = (
    ("sound", RIGHT),
    ("sound", FALSE_ALARM),
    ("broken", RIGHT),
    ("broken", MISS),
    ("worse", RIGHT),
    ("worse", MISS),
)


def _cell(verdict: str, judgement: str) -> str:
    short = "cannot be judged" if judgement == UNJUDGED else verdict
    return f"**{short}**" if judgement in (MISS, FALSE_ALARM) else short


def _worst(base: Row, row: Row) -> str:
    truth = row["truth"]
    if "fault" in truth:
        return truth["fault"]
    worst = max(gate_truth.ratios(base["truth"], truth).values())
    said = f"x{worst:.4g}" if worst < 1e4 else f"x{worst:.1e}"
    if not truth.get("finite in float16", True):
        said += ", NaN in float16"
    if not truth["reads text as it stands"]:
        said += ", loses text"
    chat = truth.get("chat")
    if chat and gate_truth.chat_broken(base["truth"]["chat"], chat):
        said += ", chat broken"
    return said


def write(table: str) -> None:
    """Put the table between its marks in docs/compare.md."""
    put(table, PAGE, BEGIN)
