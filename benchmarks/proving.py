"""Proving: all claims beside the fixed protocol of twelve conditions on 2,048 tokens each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.timing import Row, aimed, finished, in_turn, ratios, spread
from superweight.claims.catalogue import CLAIMS, SEQUENTIAL
from superweight.claims.evidence import Evidence
from superweight.measurement.conditions import controls, treatments
from superweight.measurement.corpus import cut, documents
from superweight.measurement.evaluate import measure
from superweight.measurement.hidden_states import decode_batched, decode_one_by_one
from superweight.model.edits import edited
from superweight.model.subject import Subject

CONDITIONS, TOKENS = 12, 2048
# Those that need no quantised model.
JUDGED = tuple(f"C{number}" for number in range(1, 12))


@contextmanager
def counted(subject: Subject) -> Iterator[Counter[str]]:
    """Count token-blocks: each token that each block really computes on."""
    counts: Counter[str] = Counter()

    def count(module, arguments, output):
        counts["token-blocks"] += arguments[0].flatten(0, -2).shape[0]

    # On a module inside the block: what is skipped does not reach it.
    hooks = [
        projection.module.register_forward_hook(count) for projection in subject.architecture.projections
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def fixed_protocol(subject: Subject) -> None:
    """Measure twelve conditions plainly: a whole forward pass each, over the same 2,048 tokens."""
    evidence = Evidence(subject, "builtin")
    conditions = [*treatments(evidence.scan), *controls(subject, evidence.scan)][: CONDITIONS - 1]
    ids = torch.from_numpy(evidence.windows.ids).flatten()[:TOKENS].view(8, -1).to(subject.device)
    for scales in [(), *(condition.scales for condition in conditions)]:
        for part in ids.split(2):
            with edited(subject, scales), torch.no_grad():
                subject.model(input_ids=part, use_cache=False).logits.float().log_softmax(-1)


def all_claims(subject: Subject) -> dict[str, str]:
    """Judge C1 to C11 from nothing, and return the verdicts."""
    evidence = Evidence(subject, "builtin", tests=SEQUENTIAL)
    return {claim.id: judge(evidence).status for claim, judge in CLAIMS.items() if claim.id in JUDGED}


def rows(subject: Subject) -> list[Row]:
    """Return the lines on proving, of the model that travels in a wheel."""
    return [*protocols("proving", subject, 2), *whole_check("proving", subject), *_riding(subject)]


def of_others(subjects: Iterator[Subject]) -> list[Row]:
    """Return the same of other models, one after the other."""
    found = []
    for subject in subjects:
        group = f"proving, {Path(subject.name).stem}"
        found += [*protocols(group, subject, 1), *whole_check(group, subject, most=18, within=180)]
    return found


def whole_check(group: str, subject: Subject, most: float = 12, within: float = 20) -> list[Row]:
    """Return what all claims of one model take, over one bare pass in the same process, and in seconds."""
    ids = torch.randint(0, 1000, (8, TOKENS // 8), generator=torch.Generator().manual_seed(3))
    ids = ids.to(subject.device)

    def bare() -> None:
        with torch.no_grad():
            subject.model(input_ids=ids, use_cache=False)

    one = spread(in_turn({"bare": bare}, 5)["bare"])
    evidence, taken = Evidence(subject, "builtin", tests=SEQUENTIAL), {}
    for claim, judge in CLAIMS.items():
        begin = finished()
        evidence.verdict(judge)
        taken[claim.id] = finished() - begin
    total = sum(taken.values())
    shares = ", ".join(f"{name} {part / one.median:.2g}" for name, part in taken.items() if part > one.median)
    what = f"C1 to C13 over a bare pass over {TOKENS:,} tokens, of {one} s ({shares})"
    return [
        aimed(group, what, total / one.median, most=most),
        aimed(group, "seconds of C1 to C13 once the model is loaded", total, most=within),
    ]


def protocols(group: str, subject: Subject, repeats: int) -> list[Row]:
    """Return how many token-blocks, and how much time, C1 to C11 save of the fixed protocol."""
    with counted(subject) as plain:
        fixed_protocol(subject)
    with counted(subject) as ours:
        verdicts = all_claims(subject)
    seconds = in_turn(
        {"fixed": lambda: fixed_protocol(subject), "claims": lambda: all_claims(subject)},
        repeats,
        warm=False,
    )
    fewer = plain["token-blocks"] / ours["token-blocks"]
    faster = ratios(seconds, "fixed", "claims")
    sizes = f"({plain['token-blocks']:,}) over those of C1 to C11 ({ours['token-blocks']:,})"
    judged = ", ".join(f"{name} {status}" for name, status in verdicts.items())
    return [
        aimed(group, f"token-blocks of the fixed protocol {sizes}", fewer, least=5),
        aimed(
            group,
            "seconds of the fixed protocol over those of C1 to C11",
            faster.median,
            least=4,
            figure=str(faster),
        ),
        Row(group, "verdicts of C1 to C11", judged),
    ]


def _riding(subject: Subject) -> list[Row]:
    evidence = Evidence(subject, "builtin")
    conditions = [*treatments(evidence.scan), *controls(subject, evidence.scan)]
    windows = cut(subject, documents("builtin"), "builtin", count=8)
    ids = torch.from_numpy(windows.ids)[:2].to(subject.device)
    seconds = in_turn(
        {
            "riding": lambda: decode_batched(subject, ids, conditions),
            "one by one": lambda: decode_one_by_one(subject, ids, conditions),
        },
        3,
    )
    together, alone = (way(subject, ids, conditions).hidden for way in (decode_batched, decode_one_by_one))
    apart = max(float((together[name] - hidden).abs().max()) for name, hidden in alone.items())
    largest = max(float(hidden.abs().max()) for hidden in alone.values())
    whole = in_turn({"measure": lambda: measure(subject, windows, conditions)}, 1, warm=False)
    return [
        Row(
            "proving",
            f"{len(conditions)} conditions riding in one pass, over one by one from their first block",
            str(ratios(seconds, "riding", "one by one")),
        ),
        Row(
            "proving",
            f"largest difference between the two, of hidden states up to {largest:.3g}",
            f"{apart:.2g}",
        ),
        Row("proving", "seconds of the first look, head and loss included", f"{whole['measure'][0]:.3g}"),
    ]
