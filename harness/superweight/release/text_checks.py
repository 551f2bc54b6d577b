"""Perplexity where short windows of plain prose see nothing: digits, code, other scripts, long windows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from superweight.claims.evidence import Evidence
from superweight.core.resources import fixtures_directory
from superweight.core.statistics import bootstrap
from superweight.measurement.corpus import WINDOW_TOKENS, documents
from superweight.measurement.evaluate import Values, predicted, token_nll
from superweight.release.limits import Limits
from superweight.release.result import QUALITY, Check, graded, not_comparable

# Few, because their cost grows with their length; paired, so that few are enough.
LONG, LONG_WINDOWS, LONGEST = 512, 2, 1024
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


def shared(mine: torch.Tensor, theirs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two sets of log-probabilities over the tokens that both vocabularies have."""
    size = min(mine.shape[-1], theirs.shape[-1])
    if mine.shape[-1] == theirs.shape[-1]:
        return mine, theirs
    return mine[..., :size].log_softmax(-1), theirs[..., :size].log_softmax(-1)


def compare_texts(base: Evidence, release: Evidence, limits: Limits) -> Iterator[Check]:
    """Yield the checks of perplexity on each kind of text, and on long windows."""
    for file in sorted((fixtures_directory() / "probes").glob("*.txt")):
        where = f" on {file.stem}"
        sides = [
            _ids(side, file.read_text(encoding="utf-8"), WINDOW_TOKENS, _PROBE_WINDOWS)
            for side in (base, release)
        ]
        yield _compared(f"perplexity{where}", base, release, sides, limits, where)
    text = "\n\n".join(documents(base.corpus))
    longest = min(_positions(base), _positions(release))
    for length, count, skipped, where in (
        (LONG, LONG_WINDOWS, 0, f" on windows of {LONG} tokens"),
        (LONGEST, 1, LONG, f" beyond {LONG} tokens"),
    ):
        if length > longest:
            continue
        sides = [_ids(side, text, length, count) for side in (base, release)]
        if min(map(len, sides)) == count:
            yield _compared(f"perplexity{where}", base, release, sides, limits, where, skipped)


def _positions(side: Evidence) -> int:
    return int(
        getattr(side.subject.model.config.get_text_config(), "max_position_embeddings", None) or LONGEST
    )


def _ids(side: Evidence, text: str, tokens: int, count: int) -> torch.Tensor:
    """Return the first few windows of a text: (windows, tokens), BOS before each where there is one."""
    subject = side.subject
    ids = subject.encode(text)
    lead = [subject.tokenizer.bos_token_id] if subject.provenance.begins_with_bos else []
    body, step = ids[len(lead) :], tokens - len(lead)
    starts = range(0, len(body) - step + 1, step)
    return torch.tensor([[*lead, *body[start : start + step]] for start in starts][:count], dtype=torch.long)


def _compared(
    name: str,
    base: Evidence,
    release: Evidence,
    sides: list[torch.Tensor],
    limits: Limits,
    where: str,
    skipped: int = 0,
) -> Check:
    if not torch.equal(*sides) or len(sides[0]) == 0:
        return not_comparable(QUALITY, name, f"the tokenizers cut the text{where} differently")
    rows = []
    # Short windows go together, long ones one by one: their logits are what takes the memory.
    for ids in sides[0].split(max(1, LONG // sides[0].shape[1])):
        mine, theirs = shared(*(_log_probabilities(side, ids) for side in (base, release)))
        rows.append([_nll(each, ids)[:, skipped:] for each in (mine, theirs)])
    before, after = (np.concatenate(each) for each in zip(*rows, strict=True))
    length = min(_STRETCH, before.shape[1])
    whole = before.shape[1] // length * length
    return risen(
        name, before[:, :whole].reshape(-1, length), after[:, :whole].reshape(-1, length), limits, where
    )


def _log_probabilities(side: Evidence, ids: torch.Tensor) -> torch.Tensor:
    return predicted(side.subject, ids.to(side.subject.device)).cpu()


def _nll(log_probabilities: torch.Tensor, ids: torch.Tensor) -> Values:
    return token_nll(log_probabilities, ids[:, 1:]).double().numpy()
