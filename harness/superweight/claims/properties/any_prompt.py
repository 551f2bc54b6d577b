"""P1: any prompt finds the same super weights."""

from __future__ import annotations

from collections.abc import Sequence

from superweight.claims.evidence import Evidence
from superweight.claims.paper.one_pass import agree
from superweight.claims.properties.search import Budget, Finding, search, verdict_of
from superweight.claims.verdict import Claim, Verdict, not_applicable
from superweight.detection.detect import Detection, detect
from superweight.detection.run_trace import trace_batch
from superweight.strategies import Prompt, prompts

CLAIM = Claim("P1", "Any prompt finds the same super weights.", "section 3.1")

SAME, MOVED, TOO_SHORT, OTHERS = "the same set", "the same set at another token", "too short", "another set"
AS_WRITTEN, NO_BOS = "as the tokenizer writes it", "without the BOS that the tokenizer writes"
# The paper's reservation: the activation sits at the first token or at a delimiter, so a prompt with
# fewer tokens than this may have none at all.
SHORTEST = 4


def judge(evidence: Evidence, budget: Budget) -> Verdict:
    """Compose prompts, run them as one batch, and compare what each finds with the confirmed core."""
    scan = evidence.scan
    if not scan.coordinates or scan.strongest is None:
        return not_applicable(CLAIM, "no super weight is found")
    usual = scan.strongest.token

    def judge_all(examples: Sequence[Prompt]) -> list[Finding]:
        traces = trace_batch(evidence.subject, [prompt.ids for prompt in examples])
        return [_finding(prompt, detect(trace)) for prompt, trace in zip(examples, traces, strict=True)]

    def _finding(prompt: Prompt, detection: Detection) -> Finding:
        if agree(frozenset(scan.coordinates), scan.parts, detection):
            tokens = {activation.token for activation in detection.strongest}
            return Finding(SAME if tokens <= {usual} else MOVED)
        if not detection.coordinates and len(prompt.ids) < SHORTEST:
            return Finding(TOO_SHORT)
        found = [str(place) for place in sorted(detection.coordinates)]
        return Finding(OTHERS, {"text": prompt.text, "ids": list(prompt.ids), "found": found})

    model = evidence.subject
    found = {AS_WRITTEN: search(f"P1 {model.name}", prompts(model, bos=True), judge_all, budget)}
    if model.provenance.begins_with_bos:
        without = search(f"P1 {model.name} no BOS", prompts(model, bos=False), judge_all, budget)
        found[NO_BOS] = without
    return verdict_of(CLAIM, found)
