"""Gather what a report shows of one model from its evidence, as JSON values.

Short passes are made anew: the prompts' traces under the controls, one next token, four restored
continuations. What takes long, predictions on the corpus and what the model writes, is shown only
where it has been measured already, so that a report costs seconds at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from superweight.claims.evidence import Evidence
from superweight.claims.expectations import Outcome
from superweight.claims.paper import sensitivity
from superweight.claims.sequential_verdict import SequentialTest
from superweight.core.errors import BadInput
from superweight.core.statistics import jackknife
from superweight.detection.detect import SuperActivation
from superweight.detection.run_trace import trace
from superweight.detection.scan_record import neurons
from superweight.detection.trace import Trace
from superweight.measurement.conditions import INTACT, PRUNED, SCALES, controls, scaled
from superweight.measurement.corpus import default_prompt
from superweight.measurement.effect import Effect, as_dict, effect_conditions, effect_of, summary
from superweight.measurement.generation import Continuation
from superweight.measurement.restored_generation import restored_writing
from superweight.measurement.sequential import Look
from superweight.model.edits import edited
from superweight.report.document import Document, of_model, verdict_row
from superweight.report.sweep_rows import sweep_rows

Json = dict[str, Any]

# The paper shows one prompt; four are enough to see that it is no accident.
WRITINGS = 4
# Half of what C11 judges by: the restored model writes for the report alone, and takes seconds to.
WRITTEN_TOKENS = 20
TOP_TOKENS = 8
# Content words to show: each a token that the corpus holds, the commonest first.
CONTENT_WORDS = 8


def document_of(evidence: Evidence, outcomes: Sequence[Outcome] = ()) -> Document:
    """Return the document of one model: its verdicts, and what is observed of it."""
    subject = evidence.subject
    rows = [verdict_row(outcome) for outcome in outcomes]
    return of_model(subject.name, subject.provenance.as_dict(), rows, **shown(evidence))


def document_if_measurable(evidence: Evidence) -> Document:
    """Return the same, without observations where the model cannot be measured: an overflow, say."""
    try:
        return document_of(evidence)
    except BadInput:
        return of_model(evidence.subject.name, evidence.subject.provenance.as_dict(), [])


def shown(evidence: Evidence) -> Json:
    """Return what a report shows of one model beside its verdicts: ``observed``, and the ``sweep`` if any."""
    rounded = evidence.peek("rounded_weights")
    widest = rounded.widest if rounded is not None else None
    return {"observed": gathered(evidence), "sweep": sweep_rows(widest) if widest else []}


def gathered(evidence: Evidence) -> Json:
    """Return the ``observed`` part of a report."""
    found, effect = evidence.scan, _effect(evidence)
    observed: Json = {
        "summary": summary(found, effect),
        "prompt": default_prompt(),
        "blocks": len(evidence.subject.architecture.blocks),
        "super_weights": [
            {
                "at": str(weight.coordinate),
                "layer": weight.coordinate.layer,
                "value": weight.value,
                "input": weight.input,
                "output": weight.output,
                "share": weight.share,
                "rank": found.ranks[weight.coordinate],
            }
            for weight in found.super_weights
        ],
        "cancellers": [
            {"at": str(item.coordinate), "layer": item.coordinate.layer, "value": item.value}
            for item in found.cancellers
        ],
        "gains": [
            {
                "at": str(gain.coordinate),
                "layer": gain.coordinate.layer,
                "value": gain.value,
                "median": gain.median,
                "rank": gain.rank,
                "part": gain.part,
            }
            for gain in found.gains
        ],
        "neurons": neurons(found.super_weights),
        "magnitudes": _magnitudes(evidence),
    }
    if effect is not None:
        observed["effect"] = as_dict(effect)
    if found.strongest is not None:
        observed["activation"] = _activation(evidence, found.strongest)
    if found.coordinates:
        observed["next_token"] = _next_token(evidence)
        observed |= _from_predictions(evidence) | _writings(evidence)
    return observed


def _effect(evidence: Evidence) -> Effect | None:
    """Return what the first look that some claim has had shows; none is had here."""
    if evidence.peek("sequential") is None:
        return None
    conditions = effect_conditions(evidence.subject, evidence.scan)
    look = evidence.sequential.measured([condition.name for condition in conditions])
    if look is None or not conditions:
        return None
    return effect_of(evidence.scan, look.measurements, evidence.corpus, conditions)


def _intact(evidence: Evidence) -> Trace:
    return next(iter(evidence.intact_traces.values()))


def _pruned(evidence: Evidence) -> Trace:
    return next(iter(evidence.pruned_traces.values()))


def _magnitudes(evidence: Evidence) -> Json:
    conditions = {INTACT: _largest(_intact(evidence))}
    if evidence.scan.coordinates:
        conditions[PRUNED] = _largest(_pruned(evidence))
    return conditions


def _largest(seen: Trace) -> Json:
    """Return the largest magnitude that each block's projections read and wrote: (blocks,) each."""
    return {
        "input": [_peak([write.inputs for write in writes]) for writes in seen.writes],
        "output": [_peak([write.outputs for write in writes]) for writes in seen.writes],
    }


def _peak(arrays: Sequence[np.ndarray[Any, Any]]) -> float:
    return max((float(np.abs(array).max()) for array in arrays), default=0.0)


def _activation(evidence: Evidence, item: SuperActivation) -> Json:
    """Return the activation after each block, intact, pruned and with every control pruned instead."""
    traces = {INTACT: _intact(evidence)}
    if evidence.scan.coordinates:
        traces[PRUNED] = _pruned(evidence)
        for control in controls(evidence.subject, evidence.scan):
            with edited(evidence.subject, control.scales):
                traces[control.name] = trace(evidence.subject, default_prompt())
    return {
        "channel": item.channel,
        "token": item.token,
        "onset": item.onset,
        "last": item.last,
        "courses": [
            {"condition": name, "values": seen.residual[1:, item.token, item.channel].tolist()}
            for name, seen in traces.items()
        ],
    }


def _next_token(evidence: Evidence) -> Json:
    """Return the likeliest tokens after one prompt, intact and pruned, the most likely of either."""
    subject = evidence.subject
    # The last prompt's own end would ask for a new sentence; one word less asks for that word.
    context = default_prompt().rsplit(" ", 1)[0]
    ids = torch.tensor([subject.encode(context)], device=subject.device)
    before = _probabilities(evidence, ids)
    with edited(subject, evidence.pruned_set):
        after = _probabilities(evidence, ids)
    order = torch.maximum(before, after).argsort(descending=True)[:TOP_TOKENS].tolist()
    order.sort(key=lambda token: -float(before[token]))
    return {
        "context": context,
        "top": [
            {
                "token": str(subject.tokenizer.decode([token])),
                "intact": float(before[token]),
                "pruned": float(after[token]),
            }
            for token in order
        ],
    }


def _probabilities(evidence: Evidence, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits = evidence.subject.model(input_ids=ids, use_cache=False).logits
    return torch.as_tensor(logits[0, -1]).float().softmax(-1).cpu()


def _from_predictions(evidence: Evidence) -> Json:
    """Return what the looks that some claim has had at the corpus show; none is had here."""
    if evidence.peek("sequential") is None:
        return {}
    predicted: Json = {}
    curve = {0.0: PRUNED, 1.0: INTACT} | {factor: scaled(factor) for factor in SCALES}
    test = sensitivity.sequential_test(evidence)
    # Each scale on the windows that C10 was judged on.
    scaling = evidence.sequential.had(test.needs) if isinstance(test, SequentialTest) else None
    if scaling is not None:
        predicted["scaling"] = _scaling(scaling, curve)
    if evidence.vocabulary.knows_words and (words := evidence.sequential.measured([PRUNED])):
        predicted["words"] = _words(evidence, words)
    return predicted


def _scaling(look: Look, curve: Mapping[float, str]) -> list[Json]:
    points = []
    for factor, condition in sorted(curve.items()):
        damage = look.nll_increase(condition)
        interval = jackknife(damage)
        ratio, low, high = (float(np.exp(value)) for value in (damage.mean(), interval.low, interval.high))
        points.append({"factor": factor, "perplexity_ratio": ratio, "interval": [low, high]})
    return points


def _words(evidence: Evidence, look: Look) -> list[Json]:
    """Return the mean next-token probability of each word: all its spellings, all positions."""
    vocabulary, tokenizer = evidence.vocabulary, evidence.subject.tokenizer
    column = {token: place for place, token in enumerate(vocabulary.tracked)}
    named = [("stopword", word, ids) for word, ids in vocabulary.stopwords.items()]
    named += [("punctuation", mark, ids) for mark, ids in vocabulary.punctuation.items()]
    named += [
        ("content", str(tokenizer.decode([token])).strip(), (token,))
        for token in vocabulary.content[:CONTENT_WORDS]
    ]
    means = {name: look.measurements[name].tracked.mean(axis=0) for name in (INTACT, PRUNED)}
    return [
        {"group": group, "word": word}
        | {name: float(mean[[column[token] for token in ids]].sum()) for name, mean in means.items()}
        for group, word, ids in named
    ]


def _writings(evidence: Evidence) -> Json:
    if evidence.peek("writing") is None:
        return {}
    intact, pruned = evidence.intact_writing[:WRITINGS], evidence.pruned_writing[:WRITINGS]
    restored = restored_writing(
        evidence.subject, evidence.pruned_set, [item.prompt for item in intact], WRITTEN_TOKENS
    )
    return {
        "writings": [
            {
                "prompt": before.prompt,
                INTACT: _opening(evidence, before),
                PRUNED: _opening(evidence, after),
                "restored": again.text,
            }
            for before, after, again in zip(intact, pruned, restored, strict=True)
        ]
    }


def _opening(evidence: Evidence, writing: Continuation) -> str:
    return str(evidence.subject.tokenizer.decode(list(writing.ids[:WRITTEN_TOKENS])))
