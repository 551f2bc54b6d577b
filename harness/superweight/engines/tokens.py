"""Hold the tokens that an engine reads in a text to those that the model is measured with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

from superweight.core.errors import EngineFailed
from superweight.model.subject import Subject


def require_same_tokens(
    subject: Subject, tokenise: Callable[[Sequence[str]], list[list[int]]], texts: Sequence[str]
) -> None:
    """Raise `EngineFailed` with the first difference where an engine reads other tokens, BOS included."""
    for text, theirs in zip(texts, tokenise(texts), strict=True):
        if (apart := first_difference(subject.encode(text), theirs)) is None:
            continue
        place, ours, other = apart
        raise EngineFailed(
            f"the engine reads other tokens in {text[:40]!r}: token {place} is {_said(subject, ours)} to "
            f"transformers and {_said(subject, other)} to the engine; predictions would not be of one text"
        )


def first_difference(
    first: Sequence[int], second: Sequence[int]
) -> tuple[int, int | None, int | None] | None:
    """Return the first place where two lists differ and what stands there; None stands for an end.

    >>> first_difference([1, 2, 3], [1, 2])
    (2, 3, None)
    """
    for place, (one, other) in enumerate(zip_longest(first, second)):
        if one != other:
            return place, one, other
    return None


def _said(subject: Subject, token: int | None) -> str:
    return "none" if token is None else f"{token} ({str(subject.tokenizer.decode([token]))!r})"
