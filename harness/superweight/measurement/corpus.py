"""Cut the text that perplexity is measured on into windows, by one fixed protocol.

Documents are tokenised as the tokenizer does it, BOS included where it adds one. Each is cut into
consecutive, non-overlapping windows of the same number of tokens; a BOS, read from the ids, leads
every window and counts as one of its tokens. Windows are taken round-robin: the first of every
document, then the second, until there are enough. The first token of a window is never predicted.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superweight.core.errors import BadInput
from superweight.core.reason import reason
from superweight.core.resources import fixtures_directory
from superweight.core.statistics import SEED
from superweight.model.subject import Subject

BUILTIN = "builtin"
WIKITEXT2 = "wikitext2"

# 48 windows rather than a few long ones: the interval is taken over windows, and four
# paragraphs are known to have understated the damage 20 to 70 fold.
WINDOWS = 48
WINDOW_TOKENS = 48
# Below this a bootstrap interval over windows says little.
FEWEST_WINDOWS = 8


@dataclass(frozen=True)
class Windows:
    """Token ids, (windows, tokens), all of them real; ``corpus`` names where they come from."""

    ids: NDArray[np.int64]
    corpus: str

    @property
    def order(self) -> NDArray[np.int64]:
        """A seeded order of the windows, of which the first few are a sample of all: (windows,).

        Documents lie sorted, kind by kind.
        """
        return np.random.default_rng(SEED).permutation(len(self.ids))

    def shuffled(self) -> Windows:
        """Return the same windows in that order."""
        return Windows(self.ids[self.order], self.corpus)

    def first(self, count: int) -> Windows:
        """Return the first ``count`` windows."""
        return Windows(self.ids[:count], self.corpus)


def cut(
    subject: Subject,
    documents: Sequence[str],
    corpus: str,
    *,
    count: int = WINDOWS,
    tokens: int = WINDOW_TOKENS,
) -> Windows:
    """Cut documents into at most ``count`` windows of ``tokens``.

    Raises `BadInput` when there are too few windows for an interval, or nothing in them to predict.
    """
    bos = subject.tokenizer.bos_token_id if subject.provenance.begins_with_bos else None
    per_document = [_windows(subject.encode(text), bos, tokens) for text in documents]
    rounds = zip_longest(*per_document)
    windows = [window for turn in rounds for window in turn if window is not None][:count]
    if len(windows) < FEWEST_WINDOWS:
        raise BadInput(
            f"corpus {corpus} gives {len(windows)} windows of {tokens} tokens; "
            f"at least {FEWEST_WINDOWS} are needed, so give more text"
        )
    ids = np.array(windows, dtype=np.int64)
    if min(len(np.unique(window)) for window in ids) < 3 or len(np.unique(ids, axis=0)) < len(ids):
        raise BadInput(f"corpus {corpus} repeats itself; a model learns nothing to predict from it")
    return Windows(ids, corpus)


def _windows(ids: list[int], bos: int | None, tokens: int) -> list[list[int]]:
    lead = [] if bos is None else [bos]
    body = ids[len(lead) :]
    step = tokens - len(lead)
    return [lead + body[start : start + step] for start in range(0, len(body) - step + 1, step)]


def documents(name: str) -> list[str]:
    """Return the documents of ``builtin``, ``wikitext2``, a text file, or a directory of them.

    Raises `BadInput` when there is nothing readable.
    """
    if name == WIKITEXT2:
        return _wikitext2()
    path = fixtures_directory() / "corpus" if name == BUILTIN else Path(name)
    try:
        files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        if not files:
            raise BadInput(f"corpus {path} holds no .txt file")
        return [file.read_text(encoding="utf-8") for file in files]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"cannot read corpus {name!r}: {error}; give builtin, wikitext2, or a UTF-8 text file"
        ) from error


def _wikitext2() -> list[str]:
    try:
        # Optional: only this corpus needs it.
        from datasets import load_dataset
    except ImportError:
        raise BadInput(
            "corpus wikitext2 needs the datasets package: pip install 'superweight-harness[wikitext]'"
        ) from None
    try:
        rows = load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split="test")
    # The loader passes on whatever the hub client, pyarrow or the disk raises.
    except Exception as error:
        raise BadInput(f"corpus wikitext2 is not to be had from the hub: {reason(error)}") from error
    return ["\n\n".join(rows["text"])]


@cache
def prompts() -> Mapping[str, str]:
    """Return the short prompts that detection is tried on, the default one first."""
    document = _prompt_file()
    default, table = str(document["default"]), dict(document["prompts"])
    return {default: table[default]} | table


@cache
def continuations() -> Mapping[str, str]:
    """Return the openings that a model is asked to continue."""
    return dict(_prompt_file()["continuations"])


def default_prompt() -> str:
    """Return the prompt that one forward pass of a scan reads."""
    return next(iter(prompts().values()))


def _prompt_file() -> dict[str, Any]:
    path = fixtures_directory() / "prompts.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))
