"""Which tokens are stopwords, punctuation and content words; here, where none are words."""

import pytest

from superweight.checkpoints.registry import resolve
from superweight.measurement.corpus import cut, documents
from superweight.measurement.token_groups import STOPWORDS, Vocabulary, _is_content, classify
from superweight.model.loading import load


@pytest.fixture(scope="module")
def subject():
    return load(resolve("tiny-planted"), device="cpu")


@pytest.fixture(scope="module")
def vocabulary(subject):
    return classify(subject, cut(subject, documents("builtin"), "builtin"))


def test_a_byte_level_model_knows_no_words(vocabulary):
    """A tokenizer of single bytes has no stopwords, not even "a", and no content words."""
    assert {} == vocabulary.stopwords
    assert () == vocabulary.content
    assert not vocabulary.knows_words


def test_punctuation_is_one_byte_to_a_byte_level_model(vocabulary, subject):
    """Full stop and comma are tokens of their own everywhere."""
    spelled = {
        mark: [subject.tokenizer.decode([i]) for i in ids] for mark, ids in vocabulary.punctuation.items()
    }
    assert {".": ["."], ",": [","]} == spelled


def test_only_punctuation_is_tracked_in_a_byte_level_model(vocabulary):
    """What is tracked is what was found, each id once."""
    assert (*vocabulary.punctuation["."], *vocabulary.punctuation[","]) == vocabulary.tracked


def test_tracks_every_id_once_in_a_fixed_order():
    """Stopwords come first, then punctuation, then content; an id that is two things is tracked once."""
    assert (5, 6, 1, 9) == Vocabulary({"the": (5, 6)}, {".": (1, 5)}, (9, 1)).tracked


@pytest.mark.parametrize(
    ("stopwords", "content", "knows"),
    [(STOPWORDS, (7,), True), (STOPWORDS[:-1], (7,), False), (STOPWORDS, (), False)],
    ids=["all", "a stopword missing", "no content"],
)
def test_knowing_words_takes_all_stopwords_and_some_content(stopwords, content, knows):
    """One missing stopword, or no content word, and words are not what the tokens are."""
    vocabulary = Vocabulary({word: (i,) for i, word in enumerate(stopwords)}, {}, content)
    assert knows is vocabulary.knows_words


@pytest.mark.parametrize(
    ("token", "content"),
    [
        (" bridge", True),
        (" Mill", True),
        ("\nNotice", True),
        ("bridge", False),
        (" the", False),
        (" 1234", False),
        (" don't", False),
        ("    ", False),
        ("", False),
    ],
    ids=["word", "capital", "line start", "piece", "short", "digits", "mark", "spaces", "nothing"],
)
def test_a_content_word_is_a_whole_word_of_four_letters(token, content):
    """Only letters, at least four, and a space before them."""
    assert content is _is_content(token)
