"""The text that perplexity is measured on, and the protocol that cuts it into windows."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from superweight.checkpoints.registry import resolve
from superweight.core.errors import BadInput
from superweight.measurement import corpus
from superweight.measurement.corpus import cut, documents
from superweight.model.loading import load

BOS = 256


@pytest.fixture(scope="module")
def subject():
    return load(resolve("tiny-planted"), device="cpu")


def text(length, seed=0):
    """Letters in no order, one byte and so one token each."""
    letters = np.random.default_rng(seed).integers(ord("a"), ord("z") + 1, length)
    return bytes(letters.tolist()).decode()


def test_a_bos_leads_every_window_and_counts(subject):
    """With a tokenizer that adds a BOS, windows of 5 hold the BOS and 4 tokens of text."""
    windows = cut(subject, [text(40)], "mine", tokens=5)
    assert (10, 5) == windows.ids.shape
    assert [BOS] * 10 == windows.ids[:, 0].tolist()
    assert BOS not in windows.ids[:, 1:]


def test_windows_of_a_document_follow_each_other_without_gap_or_overlap(subject):
    """Put together again, the windows are the document."""
    written = text(40)
    windows = cut(subject, [written], "mine", tokens=5)
    assert subject.encode(written)[1:] == windows.ids[:, 1:].ravel().tolist()


@pytest.mark.parametrize(("length", "expected"), [(39, 9), (40, 10), (43, 10), (44, 11)])
def test_an_incomplete_window_is_dropped(subject, length, expected):
    """All tokens of all windows are real: what does not fill a window is left out."""
    assert expected == len(cut(subject, [text(length)], "mine", tokens=5).ids)


def test_windows_are_taken_round_robin(subject):
    """The first window of every document comes before the second of any, and short ones run out."""
    first, second, third = text(16, 1), text(8, 2), text(20, 3)
    windows = cut(subject, [first, second, third], "mine", tokens=5)
    starts = [subject.tokenizer.decode(row[1:]) for row in windows.ids]
    turns = [first[:4], second[:4], third[:4], first[4:8], second[4:8], third[4:8]]
    turns += [first[8:12], third[8:12], first[12:16], third[12:16], third[16:20]]
    assert turns == starts


def test_no_more_windows_are_taken_than_asked_for(subject):
    """``count`` is a limit, and it is the first windows that stay."""
    whole = cut(subject, [text(80)], "mine", tokens=5)
    some = cut(subject, [text(80)], "mine", tokens=5, count=9)
    assert whole.ids[:9].tolist() == some.ids.tolist()


def test_windows_know_their_corpus(subject):
    """The name given is the name that reports will show."""
    assert "mine" == cut(subject, [text(80)], "mine", tokens=5).corpus


def test_refuses_too_little_text(subject):
    """Fewer than eight windows are no sample; the count, the corpus and the way out are in one line."""
    with pytest.raises(BadInput, match="corpus mine gives 7 windows of 5 tokens; at least 8") as caught:
        cut(subject, [text(31)], "mine", tokens=5)
    assert 1 == len(str(caught.value).splitlines())
    assert 8 == len(cut(subject, [text(32)], "mine", tokens=5).ids)


@pytest.mark.parametrize(
    "repeating",
    ["a" * 80, text(4) * 20, text(40) + "zzzz" + text(20, 1)],
    ids=["one letter", "one window over and over", "one window of one letter"],
)
def test_refuses_text_that_repeats_itself(subject, repeating):
    """Where windows are equal, or one holds a single letter, there is nothing to predict."""
    with pytest.raises(BadInput, match="corpus mine repeats itself"):
        cut(subject, [repeating], "mine", tokens=5)


def test_refuses_a_corpus_without_text(subject):
    """Empty documents give no windows, and that is said."""
    with pytest.raises(BadInput, match="gives 0 windows"):
        cut(subject, ["", ""], "mine")


def test_the_builtin_corpus_gives_the_protocol_its_windows(subject):
    """48 documents give 48 windows of 48 tokens: the first of each document."""
    texts = documents("builtin")
    windows = cut(subject, texts, "builtin")
    assert (corpus.WINDOWS, corpus.WINDOW_TOKENS) == windows.ids.shape
    assert [subject.encode(one)[1:48] for one in texts] == windows.ids[:, 1:].tolist()


def test_reads_one_file(tmp_path):
    """A text file is one document, whatever its suffix."""
    (tmp_path / "notes.md").write_text("Füße", encoding="utf-8")
    assert ["Füße"] == documents(str(tmp_path / "notes.md"))


def test_reads_a_directory_in_the_order_of_its_names(tmp_path):
    """Every .txt file of a directory is a document; the order does not depend on the disk."""
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert ["a.txt", "b.txt"] == documents(str(tmp_path))


def test_refuses_a_directory_without_text(tmp_path):
    """A directory that holds no .txt file is named."""
    with pytest.raises(BadInput) as caught:
        documents(str(tmp_path))
    assert f"corpus {tmp_path} holds no .txt file" == str(caught.value)


@pytest.mark.parametrize("content", [None, b"caf\xe9 \xff"], ids=["missing", "not UTF-8"])
def test_refuses_a_file_that_is_no_text(tmp_path, content):
    """A file that cannot be read is one line with its name and what to give instead."""
    path = tmp_path / "corpus.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match="give builtin, wikitext2, or a UTF-8 text file") as caught:
        documents(str(path))
    assert str(path) in str(caught.value)
    assert 1 == len(str(caught.value).splitlines())


def test_a_hub_that_fails_without_a_word_is_told_by_its_kind(monkeypatch):
    """An exception of the loader that says nothing is no IndexError of ours."""

    def load_dataset(*_, **__):
        raise TimeoutError

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(BadInput, match=r"is not to be had from the hub: TimeoutError$"):
        documents("wikitext2")


def test_wikitext_without_its_package_says_what_to_install(monkeypatch):
    """The optional corpus names its extra when the datasets package is missing."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"pip install 'superweight-harness\[wikitext\]'"):
        documents("wikitext2")


def test_the_default_prompt_comes_first():
    """One forward pass reads the prompt that the prompt file calls the default."""
    assert corpus.default_prompt() == next(iter(corpus.prompts().values())) == corpus.prompts()["statement"]


def test_the_prompts_are_unlike_each_other():
    """Nine different prompts, and continuations that are none of them."""
    prompts = list(corpus.prompts().values())
    assert 9 == len(prompts) == len(set(prompts))
    assert set(prompts).isdisjoint(corpus.continuations().values())
