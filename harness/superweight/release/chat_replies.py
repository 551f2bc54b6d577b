"""Write what a model answers under its own chat template, and rate it by another model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from superweight.core.errors import one_line
from superweight.measurement.evaluate import Values, token_nll
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


def replies(subject: Subject) -> tuple[Reply, ...]:
    """Return what a model answers to each of `QUESTIONS`. Raises `NoReplies`."""
    return tuple(_reply(subject, question) for question in QUESTIONS)


def _reply(subject: Subject, question: str) -> Reply:
    given = asked(subject, question)
    ends = _ends(subject)
    ids = torch.tensor([given], device=subject.device)
    with torch.no_grad():
        whole = subject.model.generate(  # type: ignore[operator]  # stubs see a Tensor here
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=1,
            max_new_tokens=REPLY_TOKENS,
            eos_token_id=sorted(ends) or None,
            pad_token_id=0,
            use_cache=True,
        )
    written = tuple(whole[0, len(given) :].tolist())
    return Reply(question, given, written, bool(written) and written[-1] in ends)


def _ends(subject: Subject) -> set[int]:
    own = getattr(subject.model.generation_config, "eos_token_id", None)
    stated = set(own if isinstance(own, list) else [own])
    return {int(end) for end in stated | {subject.tokenizer.eos_token_id} if end is not None}


def losses(subject: Subject, given: Sequence[Reply]) -> list[Values]:
    """Return the NLL that a model gives each token of each reply: one (tokens,) a reply."""
    found = []
    for reply in given:
        ids = torch.tensor([[*reply.asked, *reply.ids]], device=subject.device)
        with torch.no_grad():
            logits = subject.model(input_ids=ids, use_cache=False).logits
        start = len(reply.asked)
        predicted = logits[0, start - 1 : -1].float().log_softmax(-1)
        found.append(token_nll(predicted, ids[0, start:]).double().cpu().numpy())
    return found
