"""The base's own answers under its chat template: what plain text hardly uses is seen there."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from superweight.checkpoints.model_ref import parse_model
from superweight.checkpoints.registry import resolve
from superweight.claims.run_config import RunConfig
from superweight.release import chat_checks
from superweight.release.chat_checks import END, OWN_TEMPLATE, REPLIES, compare_replies
from superweight.release.chat_replies import QUESTIONS, REPLY_TOKENS, Reply, losses, replies
from superweight.release.compare import CompareRequest, compare, loaded_base
from superweight.release.limits import Limits
from superweight.release.result import DAMAGED, KEPT, QUALITY
from superweight.release.side import Side

from .releases import make, unchanged

CHAT = "{% for m in messages %}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}> {% endif %}"
BOS = 256


def with_template(folder, template):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))
    return folder


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    """The tiny model with a chat template."""
    entry = resolve("tiny-planted")
    folder = tmp_path_factory.mktemp("chat") / "base"
    return with_template(make(entry.root / entry.source, folder, unchanged, []), CHAT)


@pytest.fixture(scope="module")
def base(chatty):
    return loaded_base(CompareRequest(parse_model(str(chatty)), parse_model(str(chatty))))


def side(folder):
    return Side(RunConfig().evidence(parse_model(str(folder))))


def found(base, release):
    return {check.name: check for check in compare_replies(base, release, Limits())}


def test_replies_are_the_base_s_own_under_its_template(base):
    """One a question, asked as the template says, of as many tokens as are allowed."""
    assert len(QUESTIONS) == len(base.replies)
    text = base.subject.tokenizer.decode(base.replies[0].asked)
    assert f"{QUESTIONS[0]}\n> " == text
    assert all(0 < len(reply.ids) <= REPLY_TOKENS for reply in base.replies)


def test_each_token_of_a_reply_is_the_likeliest(base):
    """Greedy by transformers' own forward pass, token by token."""
    reply = base.replies[0]
    ids = torch.tensor([[*reply.asked, *reply.ids]])
    with torch.no_grad():
        likeliest = base.subject.model(input_ids=ids).logits[0].argmax(-1)
    assert list(reply.ids) == likeliest[len(reply.asked) - 1 : -1].tolist()


def test_a_copy_gives_the_same_replies(base, chatty):
    """The ratio is 1 to the last bit."""
    check = found(base, side(chatty))[REPLIES]
    assert ("kept", 1.0, True) == (check.status, check.figures["ratio"], check.figures["same_template"])


def test_a_release_that_would_reply_otherwise_is_damaged(base, chatty, tmp_path):
    """Every row of the head one further down: other bytes come out."""

    def change(tensors, places):
        tensors["lm_head.weight"] = tensors["lm_head.weight"].roll(1, dims=0)

    check = found(base, side(make(chatty, tmp_path / "release", change, [])))[REPLIES]
    assert "damaged" == check.status
    assert check.figures["ratio"] > Limits().reply_ratio


def ending(base, folder, tmp_path):
    """A base that ends its reply: the head's row of BOS points where the stream is then."""
    asked = tuple(base.subject.encode("Hi\n> "))
    with torch.no_grad():
        output = base.subject.model(input_ids=torch.tensor([asked]), output_hidden_states=True)
    stream = output.hidden_states[-1][0, -1].float()
    largest = float(output.logits[0, -1].max())

    def change(tensors, places):
        row = stream * ((largest + 8) / stream.square().sum())
        tensors["lm_head.weight"][BOS] = row.to(tensors["lm_head.weight"].dtype)

    made = side(make(folder, tmp_path / "ending", change, []))
    vars(made)["replies"] = (Reply("Hi", asked, (BOS,), True),)
    return made


def test_an_end_of_text_whose_row_was_emptied_is_damaged(base, chatty, tmp_path):
    """The base ends its reply there with near certainty; the release hardly ever would."""
    ends = ending(base, chatty, tmp_path)
    assert losses(ends.evidence.engine, ends.replies)[0][0] < 0.1

    def change(tensors, places):
        tensors["lm_head.weight"][BOS] = 0

    emptied = make(tmp_path / "ending", tmp_path / "release", change, [])
    check = found(ends, side(emptied))[END]
    assert "damaged" == check.status
    assert check.figures["rise"] > Limits().end_rise
    assert "kept" == found(ends, side(tmp_path / "ending"))[END].status


def test_nan_in_the_replies_is_damage(base, chatty):
    """What is no number is no reply."""
    release = side(chatty)
    with torch.no_grad():
        release.subject.model.get_output_embeddings().weight[5] = math.nan
    assert "damaged" == found(base, release)[REPLIES].status


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "has no chat template: chat replies are not compared"),
        ("{{ raise_exception('no') }}", "/base does not render: no: chat replies are not compared"),
    ],
)
def test_where_the_base_does_not_chat_that_is_said(template, words, chatty, tmp_path):
    """No template, or one that raises: not applicable, and no damage of the release's."""
    folder = with_template(make(chatty, tmp_path / "base", unchanged, []), template)
    (check,) = compare_replies(side(folder), side(chatty), Limits())
    assert "not comparable" == check.status
    assert check.reason.endswith(words)


def test_a_release_with_another_template_is_asked_under_both(base, chatty, tmp_path):
    """Under the base's it is the same model; under its own the replies are as likely as they are."""
    release = with_template(make(chatty, tmp_path / "release", unchanged, []), "Q: " + CHAT)
    checks = found(base, side(release))
    assert ("kept", False) == (checks[REPLIES].status, checks[REPLIES].figures["same_template"])
    turned = [
        replace(
            reply, asked=tuple(base.subject.tokenizer.encode("Q: ", add_special_tokens=False)) + reply.asked
        )
        for reply in base.replies
    ]
    rise = torch.tensor(
        [
            float((now - was).mean())
            for now, was in zip(losses(base.evidence.engine, turned), base.reply_losses, strict=True)
        ]
    )
    assert float(rise.mean().exp()) == pytest.approx(checks[OWN_TEMPLATE].figures["ratio"], rel=1e-3)


def test_replies_that_the_release_s_template_spoils_are_told(base, chatty, tmp_path):
    """Nothing is asked at all: worse, and whether that was meant is for a person to say."""
    release = with_template(
        make(chatty, tmp_path / "release", unchanged, []), "{% if messages %}{% endif %}z"
    )
    checks = found(base, side(release))
    assert "kept" == checks[REPLIES].status
    limits = Limits(reply_ratio=checks[OWN_TEMPLATE].figures["ratio"] * 0.99)
    (told,) = [c for c in compare_replies(base, side(release), limits) if c.name == OWN_TEMPLATE]
    assert "degraded" == told.status


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no') }}"])
def test_a_release_that_no_longer_chats_is_damaged(template, base, chatty, tmp_path):
    """Its template is gone, or raises."""
    release = with_template(make(chatty, tmp_path / "release", unchanged, []), template)
    check = found(base, side(release))[REPLIES]
    assert "damaged" == check.status
    assert check.reason.startswith("the base chats and the release does not: ")


def test_a_base_that_was_measured_is_not_run_again(base, chatty, tmp_path, monkeypatch):
    """The second release of the same base costs its own passes alone, and gets the same figures."""
    copied = parse_model(str(make(chatty, tmp_path / "one", unchanged, [])))
    request = CompareRequest(parse_model(str(chatty)), copied, depths=(QUALITY,))
    first = compare(request, held=base)

    def refuse(*arguments, **options):
        raise AssertionError("the base is run again")

    for block in base.subject.architecture.blocks:
        monkeypatch.setattr(block, "forward", refuse)
    second = compare(request, held=base)
    assert first.checks == second.checks
    assert "kept" == second.verdict


def test_a_vocabulary_that_lacks_the_replies_tokens_is_said(base, chatty):
    """A release whose head was cut below what the replies use cannot be asked for them."""
    release = side(chatty)
    largest = max(max(reply.asked + reply.ids) for reply in base.replies)
    for size in (40, largest):
        vars(release)["vocabulary"] = size
        (check,) = compare_replies(base, release, Limits())
        assert "the release lacks tokens of the base's replies" == check.reason
    vars(release)["vocabulary"] = largest + 1
    assert len(compare_replies(base, release, Limits())) > 0
    assert KEPT == found(base, release)["chat replies"].status


@pytest.mark.parametrize(
    ("later", "words", "status"),
    [
        (0.0, "the end of a reply is 1 times as likely", KEPT),
        (math.log(2), "is 0.5 times as likely", KEPT),
        (-math.log(4), "is 4 times as likely", KEPT),
        (3.5, "is 0.0302 times as likely", DAMAGED),
        (800.0, "is 0 times as likely", DAMAGED),
    ],
)
def test_an_end_that_comes_later_is_told_by_how_much(base, monkeypatch, later, words, status):
    """From what it costs the release beyond the base, of the replies that ended by themselves."""
    given = (Reply("a", (1, 2), (3, 4), ended=True), Reply("b", (1,), (5,), ended=False))
    before = [np.array([1.0, 1.0]), np.array([1.0])]
    after = [np.array([1.0, 1.0 + later]), np.array([1.0])]
    one = SimpleNamespace(replies=given, reply_losses=before)
    two = SimpleNamespace(subject=None, vocabulary=100, losses_of=lambda _: after)
    monkeypatch.setattr(chat_checks, "asked", lambda _, question: (1, 2) if question == "a" else (1,))
    check = {item.name: item for item in compare_replies(one, two, Limits())}["end of a reply"]
    assert (status, True) == (check.status, words in check.reason)


def test_a_reply_ends_by_itself_where_its_last_token_ends_texts(base):
    """One that was cut off, or that is empty, did not."""
    plain = base.evidence.subject
    subject = SimpleNamespace(name=plain.name, tokenizer=plain.tokenizer, ends=frozenset({7}))
    written = [[5, 7], [7, 5], []]
    engine = SimpleNamespace(reply=lambda given, tokens, ends: (written * len(given))[: len(given)])
    wanted = ([True, False, False] * len(QUESTIONS))[: len(QUESTIONS)]
    assert wanted == [reply.ended for reply in replies(subject, engine)]
    with pytest.raises(ValueError, match="shorter"):  # an engine that leaves a question out
        replies(subject, SimpleNamespace(reply=lambda given, tokens, ends: written[:1]))
