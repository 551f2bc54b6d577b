"""Sort token ids into stopwords, punctuation and content words (Figure 5 of the paper).

No stopword list is published; this one is frozen, punctuation and words apart.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from superweight.measurement.corpus import Windows
from superweight.model.subject import Subject

STOPWORDS = ("the", "a", "of", "and", "to", "in")
PUNCTUATION = (".", ",")

# Enough for a stable median, few enough to keep per-window means of all of them.
CONTENT_WORDS = 200
_SHORTEST_CONTENT_WORD = 4


@dataclass(frozen=True)
class Vocabulary:
    """Token ids by what they mean: each stopword and mark with its spellings, and content words."""

    stopwords: dict[str, tuple[int, ...]]
    punctuation: dict[str, tuple[int, ...]]
    content: tuple[int, ...]

    @property
    def knows_words(self) -> bool:
        """Whether words are tokens at all; to a byte-level model they are not."""
        return len(self.stopwords) == len(STOPWORDS) and len(self.content) > 0

    @property
    def tracked(self) -> tuple[int, ...]:
        """All ids, in one fixed order."""
        groups = [*self.stopwords.values(), *self.punctuation.values()]
        return tuple(dict.fromkeys([token for group in groups for token in group] + list(self.content)))


def classify(subject: Subject, windows: Windows) -> Vocabulary:
    """Sort the vocabulary of a tokenizer by what it means; content words are those of the windows."""
    stopwords = _spelled(subject, STOPWORDS)
    punctuation = _spelled(subject, PUNCTUATION)
    counts = Counter(windows.ids.ravel().tolist())
    content = [
        token for token, _ in counts.most_common() if _is_content(str(subject.tokenizer.decode([token])))
    ]
    return Vocabulary(stopwords, punctuation, tuple(content[:CONTENT_WORDS]))


def _spelled(subject: Subject, words: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Return the single tokens that spell each word, with and without the space before it."""
    spelled = {}
    for word in words:
        spellings = (word, f" {word}")
        ids = {tuple(subject.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in spellings}
        # With a space a byte-level tokenizer needs two tokens even for "a": then it is a byte,
        # not the word.
        single = sorted(token for token, *rest in ids if not rest)
        if single and (len(single) == len(ids) or word in PUNCTUATION):
            spelled[word] = tuple(single)
    return spelled


def _is_content(text: str) -> bool:
    word = text.strip().lower()
    # Only whole words: a piece of one has no space before it.
    starts_word = text != text.lstrip()
    return starts_word and word.isalpha() and len(word) >= _SHORTEST_CONTENT_WORD
