"""Answer lm-evaluation-harness's questions by a runner's logits and text.

The library's own backend for GGUF asks a server to echo a prompt with the probability of each of its
tokens; llama.cpp's server returns those of what it writes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM

from superweight.core.errors import BadInput
from superweight.engines.engine import Runner
from superweight.model.subject import Subject

# What the library writes where a task says nothing else.
_MOST_WRITTEN = 256
# So many questions go to the runner at once: their logits lie on a disk meanwhile.
_AT_ONCE = 32


class RunnerModel(TemplateLM):  # type: ignore[misc]  # the library ships no types
    """A model of lm-evaluation-harness that a `Runner` runs."""

    def __init__(self, subject: Subject, runner: Runner) -> None:
        super().__init__()
        self._subject = subject
        self._runner = runner

    @property
    def eot_token_id(self) -> int:
        return int(self._subject.tokenizer.eos_token_id)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        special = (
            self._subject.provenance.begins_with_bos if add_special_tokens is None else add_special_tokens
        )
        return list(self._subject.tokenizer(string, add_special_tokens=special)["input_ids"])

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Return how likely each continuation is, and whether it is what the model would write."""
        answers = []
        for first in range(0, len(requests), _AT_ONCE):
            some = requests[first : first + _AT_ONCE]
            predicted = self._runner.predict([[*context, *rest] for _, context, rest in some])
            for logits, (_, context, rest) in zip(predicted, some, strict=True):
                own = np.array(logits[len(context) - 1 :], dtype=np.float64)
                largest = own.max(axis=1)
                normed = own - largest[:, None]
                logs = normed[range(len(rest)), rest] - np.log(np.exp(normed).sum(axis=1))
                answers.append((float(logs.sum()), bool((own.argmax(axis=1) == rest).all())))
        return answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Write an answer to each request, cut where the task says that it ends."""
        answers = []
        for request in requests:
            context, settings = request.args
            until = settings.get("until") or []
            tokens = int(settings.get("max_gen_toks", _MOST_WRITTEN))
            (ids,) = self._runner.write([self.tok_encode(context)], tokens, [self.eot_token_id], ())
            text = str(self._subject.tokenizer.decode(ids, skip_special_tokens=True))
            for end in [until] if isinstance(until, str) else until:
                text = text.split(end)[0]
            answers.append(text)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Refuse what no task that is scored by accuracy asks. Raises `BadInput`."""
        raise BadInput("tasks scored by perplexity are not asked here; the corpus is what perplexity is of")
