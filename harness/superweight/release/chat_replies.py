"""Write what a model answers under its own chat template, and rate it by another model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from superweight.core.errors import one_line
from superweight.engines.engine import Engine
from superweight.measurement.evaluate import Values
from superweight.model.subject import Subject

# Few and short: each is written out token by token. Numbers, a list, another language.
QUESTIONS = (
    "What is 12 + 30?",
    "Name three primary colours.",
    "Say good morning in Spanish.",
    "Which planet is closest to the sun?",
)
REPLY_TOKENS = 40


class NoReplies(Exception):
    """A model that was made for no chat, or whose template is of no use here; the message says which."""


@dataclass(frozen=True)
class Reply:
    """A greedy answer to a question, as tokens; ``ended`` tells whether it ended by itself.

    The token that ends it is the last of ``ids`` then.
    """

    question: str
    asked: tuple[int, ...]
    ids: tuple[int, ...]
    ended: bool


def asked(subject: Subject, question: str) -> tuple[int, ...]:
    """Return the tokens of a question under the model's own template. Raises `NoReplies`."""
    tokenizer = subject.tokenizer
    if not tokenizer.chat_template:
        raise NoReplies(f"{subject.name} has no chat template")
    turns = [{"role": "user", "content": question}]
    # A template is a program: it raises whatever it likes.
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except Exception as error:
        raise NoReplies(f"the chat template of {subject.name} does not render: {one_line(error)}") from error
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def replies(subject: Subject, engine: Engine) -> tuple[Reply, ...]:
    """Return what a model, run by an engine, answers to each of `QUESTIONS`. Raises `NoReplies`."""
    given = [asked(subject, question) for question in QUESTIONS]
    ends = subject.ends
    written = engine.reply(given, REPLY_TOKENS, sorted(ends))
    return tuple(
        Reply(question, before, tuple(ids), bool(ids) and ids[-1] in ends)
        for question, before, ids in zip(QUESTIONS, given, written, strict=True)
    )


def losses(engine: Engine, given: Sequence[Reply]) -> list[Values]:
    """Return the NLL that a model gives each token of each reply: one (tokens,) a reply."""
    sequences = [[*reply.asked, *reply.ids] for reply in given]
    return engine.nll(sequences, [len(reply.asked) for reply in given])
