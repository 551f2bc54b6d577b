"""What a repair gives back: damaged releases of the real model, repaired and measured plainly.

    python -m benchmarks repair

Every kind of damage of the gate's benchmark that lies in a super weight is made, repaired with
`superweight.remedy.repair`, and measured with `gate_truth`, which is none of the harness's. A few whose
damage lies elsewhere are there to be refused. The table of docs/repair.md is written from
``results/repair.json``.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks import gate_truth
from benchmarks.gate import WORK, base_folder, made
from benchmarks.gate import read as read_row
from benchmarks.gate_damaged import BETWEEN, BROKEN
from superweight.checkpoints.model_ref import parse_model
from superweight.core.errors import BadInput
from superweight.core.markdown import rewritten_between, table
from superweight.release.compare import CompareRequest
from superweight.release.result import ACTIVATIONS, DEPTHS, STATIC
from superweight.remedy.repair import RepairRequest, repair

RESULTS = Path(__file__).parent / "results" / "repair.json"
PAGE = Path(__file__).parents[1] / "docs" / "repair.md"
BEGIN, END = "<!-- repair: begin -->", "<!-- repair: end -->"
IN_SUPER_WEIGHTS = (
    "both super weights zeroed",
    "first super weight zeroed",
    "both super weights flipped",
    "both super weights halved",
    "second super weight halved",
    "super weights moved a column",
    "clipped at z = 9",
)
ELSEWHERE = ("half of the matrices random", "head rows shuffled")


def run() -> list[dict[str, Any]]:
    """Make, repair and measure each release; what is in the results already is not done again."""
    base = base_folder()
    reference = read_row("the base")["truth"]
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    for name in (*IN_SUPER_WEIGHTS, *ELSEWHERE):
        if any(row["name"] == name for row in rows):
            continue
        begun = time.monotonic()
        release = made((BROKEN | BETWEEN)[name], base, lent=False)
        target = WORK / f"repaired-{release.name}"
        shutil.rmtree(target, ignore_errors=True)
        # Named as the registry's: what is known of its super weights is known of its plain copy.
        models = parse_model(f"smollm2-135m-instruct-q4_1={base}"), parse_model(str(release))
        # Predictions are measured below, by other means and on other text; what lies elsewhere they show.
        depths = DEPTHS if name in ELSEWHERE else (STATIC, ACTIVATIONS)
        wanted = CompareRequest(*models, depths=depths)
        row: dict[str, Any] = {"name": name, "outcome": "refused", "verdict": None, "restored": []}
        try:
            result = repair(RepairRequest(wanted, target))
        except BadInput as error:
            row["reason"] = str(error).replace(str(release), "RELEASE").replace(str(base), "BASE")
        else:
            row |= {"outcome": result.outcome, "verdict": result.verdict}
            row["restored"] = [str(item.place) for item in result.restored]
        row["before"] = _worst(reference, read_row(name)["truth"])
        row["after"] = (
            _worst(reference, gate_truth.measured(target, chats=False)) if target.exists() else None
        )
        rows.append(row)
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print(f"{time.monotonic() - begun:5.0f} s  {row}", flush=True)
        shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(release, ignore_errors=True)
    return rows


def _worst(reference: dict[str, Any], found: dict[str, Any]) -> float | None:
    """Return the perplexity over the base's on the kind of text where it is largest."""
    worst = math.inf if "fault" in found else max(gate_truth.ratios(reference, found).values())
    return worst if math.isfinite(worst) else None


def as_markdown(rows: list[dict[str, Any]]) -> str:
    columns = ("damage", "perplexity over the base's, before", "repair", "after", "scalars put back")
    cells = [
        (
            row["name"],
            _ratio(row["before"]),
            ", ".join(filter(None, (row["outcome"], row["verdict"]))),
            _ratio(row["after"]),
            len(row["restored"]) or "",
        )
        for row in rows
    ]
    return "\n".join(["", *table(columns, cells), ""])


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:,.4f}" if value < 10 else f"{value:,.0f}"


def main(options: list[str]) -> None:
    """Run what is missing, and write the table into the page."""
    if options:
        raise SystemExit(f"no option {options[0]}; there is none")
    body = as_markdown(run())
    if PAGE.is_file():
        PAGE.write_text(rewritten_between(PAGE, BEGIN, END, body), encoding="utf-8")
    print(body)
