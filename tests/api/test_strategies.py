"""The public strategies draw what they say, all kinds of it."""

from __future__ import annotations

import ast
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

import superweight as sw
from superweight import strategies
from superweight.core.coordinates import Coordinate

PLACES = (Coordinate(1, 41, 23), Coordinate(2, 3, 4), Coordinate(2, 3, 5))
SCAN = SimpleNamespace(coordinates=PLACES)
TEMPLATE = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}"


def drawn(strategy, count=200, number=0):
    """Examples of a strategy, the same each time."""
    found = []

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @seed(number)
    @given(strategy)
    def collect(example):
        found.append(example)

    collect()
    return found


def test_prompts_are_of_every_kind_and_no_longer_than_asked(planted):
    """At least one in forty of each kind; none is empty, none too long."""
    found = drawn(strategies.prompts(planted, max_tokens=20))
    kinds = Counter(prompt.kind for prompt in found)
    assert {"words", "one word", "repeated", "numbers", "code", "scripts"} == kinds.keys()
    assert min(kinds.values()) >= 5
    assert all(1 <= len(prompt.ids) <= 20 for prompt in found)
    assert 20 == max(len(prompt.ids) for prompt in found)


def test_prompts_come_with_and_without_the_bos(planted):
    """Unless one of the two is asked for."""
    bos = planted.tokenizer.bos_token_id

    def leads(**options):
        return {prompt.ids[0] == bos for prompt in drawn(strategies.prompts(planted, **options), 60)}

    assert {True, False} == leads()
    assert {True} == leads(bos=True)
    assert {False} == leads(bos=False)


def test_a_chat_template_is_used_where_there_is_one(planted, monkeypatch):
    monkeypatch.setattr(planted.tokenizer, "chat_template", TEMPLATE)
    chats = [prompt for prompt in drawn(strategies.prompts(planted)) if prompt.kind == "chat"]
    assert len(chats) >= 5
    assert all(prompt.text.startswith("<user>") for prompt in chats)


def test_ids_are_the_tokenizers(planted):
    """Of what fits, every token; nothing of its own."""
    for prompt in drawn(strategies.prompts(planted, bos=True), 50):
        assert list(prompt.ids) == planted.encode(prompt.text)[: strategies.MAX_TOKENS]


def test_coordinates_lie_in_the_model_and_in_every_block(planted):
    found = drawn(strategies.coordinates(planted))
    assert {0, 1, 2, 3} == {place.layer for place in found}
    for place in found:
        planted.architecture.value(place)  # raises for what lies outside


def test_subsets_are_of_every_size_and_in_every_order():
    found = drawn(strategies.subsets(SCAN), 300)
    assert {0, 1, 2, 3} == {len(chosen) for chosen in found}
    assert 6 == len({chosen for chosen in found if len(chosen) == 3})
    assert all(len(set(chosen)) == len(chosen) for chosen in found)


def test_of_nothing_the_only_subset_is_nothing():
    assert {()} == set(drawn(strategies.subsets(SimpleNamespace(coordinates=())), 5))


def test_edits_prune_and_scale():
    found = [edit for chosen in drawn(strategies.edits(SCAN)) for edit in chosen]
    assert {0.0, 1.0} < {edit.factor for edit in found}
    assert set(PLACES) == {edit.coordinate for edit in found}


@pytest.fixture
def documented():
    """The example of the module's docstring, as code."""
    lines = strategies.__doc__.split("\n\n")
    code = [part for part in lines if part.startswith("    ")]
    return "\n".join(line.removeprefix("    ") for part in code for line in part.splitlines())


def test_the_documented_property_runs(documented, monkeypatch):
    """It is a test of the tiny model, and finds that its activation needs the BOS only where one is cut."""
    names = {}
    exec(compile(ast.parse(documented), "example", "exec"), names)  # noqa: S102  # that is the point
    names["test_any_prompt_finds_it"] = settings(max_examples=3, deadline=None)(
        names["test_any_prompt_finds_it"]
    )
    names["test_any_prompt_finds_it"]()
    assert names["expected"] == set(sw.scan(names["model"]).coordinates)
