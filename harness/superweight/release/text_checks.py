"""Perplexity where short windows of plain prose see nothing: digits, code, other scripts, long windows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from superweight.core.resources import fixtures_directory
from superweight.core.statistics import bootstrap
from superweight.measurement.corpus import WINDOW_TOKENS, documents
from superweight.measurement.evaluate import Values
from superweight.release.config_checks import READ
from superweight.release.limits import Limits
from superweight.release.result import QUALITY, Check, graded, not_comparable
from superweight.release.side import Side

# Few, because their cost grows with their length; paired, so that few are enough.
LONG, LONGEST = 512, READ
# Of each kind of text; together one pass.
_PROBE_WINDOWS = 8
# What one interval's units are: a stretch of this many tokens.
_STRETCH = 32


def risen(name: str, base: Values, release: Values, limits: Limits, where: str = "") -> Check:
    """Return the check of the perplexity ratio of two models' NLL, each (windows, tokens)."""
    rise = (release - base).mean(axis=1)
    if not np.isfinite(rise).all():
        words = f"perplexity{where} is no number"
        return graded(QUALITY, name, words, float("nan"), worse=True)
    interval = bootstrap(rise)
    ratio, low, high = (float(np.exp(value)) for value in (rise.mean(), interval.low, interval.high))
    return graded(
        QUALITY,
        name,
        f"perplexity{where} is {ratio:.4g} times the base's [{low:.4g}, {high:.4g}]",
        # Only what is surely beyond the limit is damage: the low end of the interval decides.
        low / limits.perplexity_ratio,
        worse=low > limits.degraded_ratio,
        ratio=ratio,
        interval=[low, high],
        base=float(np.exp(base.mean())),
        release=float(np.exp(release.mean())),
    )


def compare_texts(base: Side, release: Side, limits: Limits) -> Iterator[Check]:
    """Yield the checks of perplexity on each kind of text, and on long windows."""
    for file in sorted((fixtures_directory() / "probes").glob("*.txt")):
        where = f" on {file.stem}"
        text = file.read_text(encoding="utf-8")
        both = [_ids(side, text, WINDOW_TOKENS)[:_PROBE_WINDOWS] for side in (base, release)]
        name = f"perplexity{where}"
        if not torch.equal(*both) or len(both[0]) == 0:
            yield _cut_differently(name, where)
        else:
            before, after = _losses(base, release, both[0])
            yield risen(name, before, after, limits, where)
    yield from _long(base, release, limits)


def _long(base: Side, release: Side, limits: Limits) -> Iterator[Check]:
    """Yield the checks on long windows: the longest that the base promises, and one of `LONG` beside it."""
    text = "\n\n".join(documents(base.evidence.corpus))
    # The base's promise: a release that promises less is read as far as the base is.
    longest = min(_positions(base), LONGEST)
    if longest < LONG:
        return
    tokens = longest if longest == LONGEST else LONG
    (first, second) = (_ids(side, text, tokens) for side in (base, release))
    where = f" on windows of {LONG} tokens"
    if not torch.equal(first, second):
        yield _cut_differently(f"perplexity{where}", where)
        return
    if len(first) == 0:
        return
    before, after = _losses(base, release, first[:1])
    near = [before[:, : LONG - 1], after[:, : LONG - 1]]
    if len(rest := first[1:2, :LONG]):
        near = [np.concatenate(pair) for pair in zip(near, _losses(base, release, rest), strict=True)]
    yield risen(f"perplexity{where}", _stretches(near[0]), _stretches(near[1]), limits, where)
    if tokens > LONG:
        where = f" beyond {LONG} tokens"
        was, now = _stretches(before[:, LONG:]), _stretches(after[:, LONG:])
        yield risen(f"perplexity{where}", was, now, limits, where)


def _cut_differently(name: str, where: str) -> Check:
    return not_comparable(QUALITY, name, f"the tokenizers cut the text{where} differently")


def _positions(side: Side) -> int:
    return int(
        getattr(side.subject.model.config.get_text_config(), "max_position_embeddings", None) or LONGEST
    )


def _ids(side: Side, text: str, tokens: int) -> torch.Tensor:
    """Return the windows of a text: (windows, tokens), BOS before each where there is one."""
    subject = side.subject
    ids = subject.encode(text)
    lead = [subject.tokenizer.bos_token_id] if subject.provenance.begins_with_bos else []
    body, step = ids[len(lead) :], tokens - len(lead)
    starts = range(0, len(body) - step + 1, step)
    windows = [[*lead, *body[start : start + step]] for start in starts]
    return torch.tensor(windows, dtype=torch.long).reshape(-1, tokens)


def _losses(base: Side, release: Side, ids: torch.Tensor) -> tuple[Values, Values]:
    """Return both models' NLL over the tokens that both vocabularies have, (windows, tokens - 1)."""
    size = min(base.vocabulary, release.vocabulary)
    return base.nll(ids, size), release.nll(ids, size)


def _stretches(nll: Values) -> Values:
    """Cut long windows into what the interval is taken over: (stretches, tokens)."""
    length = min(_STRETCH, nll.shape[1])
    whole = nll.shape[1] // length * length
    return nll[:, :whole].reshape(-1, length)
