"""What a check's plan says against what the check then takes: token-blocks, and memory of the first look."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.offloading import Peak, anonymous_bytes
from benchmarks.proving import counted
from benchmarks.starting import MODEL
from benchmarks.timing import Row, aimed
from superweight.checkpoints.registry import resolve
from superweight.claims.catalogue import CLAIMS, SEQUENTIAL
from superweight.claims.evidence import Evidence
from superweight.claims.plan import plan_of
from superweight.model.loading import load

# The pass of C7 and C11 are judged by others too; these are what one step of the plan measures together.
SHARED = ("C3", "C4", "C8", "C9", "C10")


def measure_one(model: str) -> dict[str, float]:
    """Plan a check and take its looks, in a process of its own; bytes, and token-blocks."""
    subject = load(resolve(model), device="cpu", dtype="float32")
    evidence = Evidence(subject, "builtin", tests=SEQUENTIAL)
    plan = plan_of(evidence)
    step = plan.step_of(SHARED[0])
    if step is None:
        raise RuntimeError(f"nothing is measured together on {model}")
    before = anonymous_bytes()
    peak = Peak()
    peak.start()
    with counted(subject) as counts:
        evidence.sequential.first()
        first = counts["token-blocks"]
        peak.stop()
        for claim, judge in CLAIMS.items():
            if claim.id in SHARED:
                judge(evidence)
    return {
        "planned memory": plan.memory,
        "memory": peak.most - before,
        "least": step.token_blocks.least,
        "most": step.token_blocks.most,
        "first": first,
        "all": counts["token-blocks"],
    }


def rows() -> list[Row]:
    """Return the lines on what was planned."""
    code = (
        "import json, sys; from benchmarks.plan import measure_one; "
        "print(json.dumps(measure_one(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, MODEL]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout.splitlines()[-1])
    group, megabyte = "plan", 1e6
    memory = f"{seen['planned memory'] / megabyte:.0f} and {seen['memory'] / megabyte:.0f}"
    return [
        aimed(
            group,
            f"megabytes of the first look, planned and measured ({memory}), the one over the other",
            seen["planned memory"] / seen["memory"],
            least=1,
        ),
        aimed(
            group,
            f"token-blocks of the first look, measured ({seen['first']:,}) over planned",
            seen["first"] / seen["least"],
            most=1.05,
        ),
        aimed(
            group,
            f"token-blocks of {', '.join(SHARED)}, measured ({seen['all']:,}) over the most that was planned",
            seen["all"] / seen["most"],
            most=1,
        ),
    ]
