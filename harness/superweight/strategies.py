"""Hypothesis strategies for property tests about a model: prompts, coordinates, subsets, edits.

    from hypothesis import given
    import superweight as sw
    from superweight.strategies import prompts

    model = sw.load("tiny-planted")
    expected = set(sw.scan(model).coordinates)

    @given(prompt=prompts(model))
    def test_any_prompt_finds_it(prompt):
        assert expected == set(sw.scan(model, prompt.text).coordinates)

Each strategy calls `hypothesis.event` with what it drew, so that ``--hypothesis-show-statistics`` tells
how often.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from hypothesis import event
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from superweight.core.coordinates import Coordinate
from superweight.detection.scan import Scan
from superweight.measurement.corpus import BUILTIN, documents
from superweight.model.edits import Prune, Scale
from superweight.model.subject import Subject

# As many tokens as a prompt of `prompts` may have.
MAX_TOKENS = 64
_MOST_WORDS = 40


@dataclass(frozen=True)
class Prompt:
    """A text and the token ids that the model reads, at least one; ``kind`` says how it was composed."""

    text: str
    ids: tuple[int, ...]
    kind: str


def prompts(
    model: Subject, *, max_tokens: int = MAX_TOKENS, bos: bool | None = None
) -> SearchStrategy[Prompt]:
    """Draw texts unlike each other, cut to ``max_tokens`` tokens.

    They are words of the corpus in any order, code, numbers, other scripts, one word again and again,
    a single word, and, where the tokenizer has a chat template, a conversation in it. ``bos`` says
    whether the BOS that the tokenizer puts in front is kept; None draws both.
    """
    kinds = _texts(model)
    with_bos = st.booleans() if bos is None else st.just(bos)
    text_of_kind = st.sampled_from(sorted(kinds)).flatmap(lambda kind: st.tuples(st.just(kind), kinds[kind]))

    def prompt(drawn: tuple[str, str], keep_bos: bool) -> Prompt:
        kind, text = drawn
        # A chat template writes its own BOS where it wants one.
        ids = model.encode(text)[:max_tokens]
        event(f"kind: {kind}")
        if model.provenance.begins_with_bos and not keep_bos:
            ids = ids[1:]
            event("without BOS")
        return Prompt(text, tuple(ids), kind)

    return st.builds(prompt, text_of_kind, with_bos).filter(lambda drawn: len(drawn.ids) > 0)


def coordinates(model: Subject) -> SearchStrategy[Coordinate]:
    """Draw any scalar of any matrix that writes to the residual stream."""
    projections = model.architecture.projections

    def place(index: int, row: int, col: int) -> Coordinate:
        projection = projections[index]
        event(f"block: {projection.at(0, 0).layer}")
        return projection.at(row % projection.hidden, col % projection.intermediate)

    large = st.integers(0, 2**31 - 1)
    return st.builds(place, st.integers(0, len(projections) - 1), large, large)


def subsets(scan: Scan, *, min_size: int = 0) -> SearchStrategy[tuple[Coordinate, ...]]:
    """Draw a subset of the super weights of a scan, in any order."""

    def counted(chosen: Sequence[Coordinate]) -> tuple[Coordinate, ...]:
        event(f"size: {len(chosen)} of {len(scan.coordinates)}")
        return tuple(chosen)

    every = sorted(scan.coordinates)
    if not every:
        return st.just(()).map(counted)
    return st.lists(st.sampled_from(every), unique=True, min_size=min_size).map(counted)


def edits(scan: Scan) -> SearchStrategy[tuple[Scale, ...]]:
    """Draw edits of a subset of the super weights of a scan: some pruned, some scaled."""
    factors = st.one_of(st.just(0.0), st.just(1.0), st.floats(-2, 2, width=16))

    def scaled(chosen: tuple[Coordinate, ...], by: Sequence[float]) -> tuple[Scale, ...]:
        event("pruned" if 0.0 in by[: len(chosen)] else "not pruned")
        pairs = zip(chosen, by, strict=False)
        return tuple(Prune(place) if factor == 0 else Scale(place, factor) for place, factor in pairs)

    size = max(1, len(scan.coordinates))
    return st.builds(scaled, subsets(scan, min_size=min(1, len(scan.coordinates))), _exactly(factors, size))


def _exactly(one: SearchStrategy[float], count: int) -> SearchStrategy[list[float]]:
    return st.lists(one, min_size=count, max_size=count)


def _texts(model: Subject) -> dict[str, SearchStrategy[str]]:
    word = st.sampled_from(_words())
    scripts = "абвгдежзийклмнопрстуфхцчшщъыьэюя αβγδεζηθικλμν 日本語中文字 हिन्दी עברית العربية 한국어 🙂🌊"
    number = st.one_of(st.integers(-(10**9), 10**9).map(str), st.floats(allow_nan=False, width=32).map(repr))
    name = st.text(string.ascii_lowercase, min_size=1, max_size=8)
    line = st.builds("{} = {}({})".format, name, name, number)
    texts: dict[str, SearchStrategy[str]] = {
        "words": st.lists(word, min_size=2, max_size=_MOST_WORDS).map(" ".join),
        "one word": word,
        "repeated": st.builds(_repeated, word, st.integers(2, _MOST_WORDS)),
        "numbers": st.lists(number, min_size=1, max_size=12).map(" ".join),
        "code": st.lists(line, min_size=1, max_size=6).map("\n".join),
        "scripts": st.text(sorted(set(scripts)), min_size=1, max_size=40),
    }
    template = _chat(model)
    if template is not None:
        texts["chat"] = st.lists(word, min_size=1, max_size=12).map(" ".join).map(template)
    return texts


def _repeated(word: str, count: int) -> str:
    return " ".join([word] * count)


def _chat(model: Subject) -> Callable[[str], str] | None:
    """Return what writes a user's message in the tokenizer's chat template, or None without one."""
    if not getattr(model.tokenizer, "chat_template", None):
        return None

    def written(message: str) -> str:
        turns = [{"role": "user", "content": message}]
        return str(model.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    return written


@cache
def _words() -> tuple[str, ...]:
    """Return the distinct words of the built-in corpus, in its order."""
    found = re.findall(r"[A-Za-z']+", " ".join(documents(BUILTIN)))
    return tuple(dict.fromkeys(found))
