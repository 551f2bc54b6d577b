"""Run llama.cpp for another process: a request a line on stdin, an answer a line on stdout, both JSON.

Native code that dies takes this process with it and no other. Logits go through a file that the
request names; they are as wide as the vocabulary.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from superweight.engines.llama_cpp.interface import (
    CHUNK,
    Context,
    Interface,
    InterfaceChanged,
    LoadedModel,
    Refused,
)

Answer = dict[str, Any]


class Worker:
    """The one model that is loaded, and what is asked of it."""

    def __init__(self) -> None:
        self._interface = Interface()
        self._model: LoadedModel | None = None

    @property
    def model(self) -> LoadedModel:
        if self._model is None:
            raise Refused("no file is loaded")
        return self._model

    def answer(self, request: Answer) -> Answer:
        """Do what a request's ``do`` names with the rest of it. Raises `Refused`."""
        doing: dict[str, Callable[..., Answer]] = {
            "load": self.load,
            "tokenise": self.tokenise,
            "predict": self.predict,
            "predict_next": self.predict_next,
            "write": self.write,
        }
        return doing[request.pop("do")](**request)

    def load(self, path: str, threads: int, *, gpu: bool) -> Answer:
        """Load a file in place of the one before."""
        if self._model is not None:
            self._model.free()
            self._model = None
        self._model = LoadedModel(self._interface, Path(path), threads=threads, gpu=gpu)
        offload = gpu and bool(self._interface.llama_supports_gpu_offload())
        return {
            "vocabulary": self.model.tokens,
            "description": self.model.description,
            "device": "cuda" if offload else "cpu",
            "system": self._interface.llama_print_system_info().decode("utf-8", "replace").strip(),
        }

    def tokenise(self, texts: Sequence[str]) -> Answer:
        return {"ids": [self.model.tokenised(text) for text in texts]}

    def predict(self, sequences: Sequence[Sequence[int]], out: str) -> Answer:
        """Write the logits after every token but the last of each sequence, in order, as float32."""
        groups = list(_groups(sequences))
        most, longest = max(map(len, groups)), max(map(len, sequences))
        with Path(out).open("wb") as file, self.model.context(most, longest) as context:
            for group in groups:
                context.clear()
                for logits in _decoded(context, group):
                    file.write(np.ascontiguousarray(logits).tobytes())
        return {}

    def predict_next(self, prompt: Sequence[int], out: str) -> Answer:
        """Write the logits behind the last token of one prompt, which is decoded at once, as float32.

        As llama.cpp's server does it: kernels round otherwise where they are given other tokens beside.
        """
        items = [(0, place, token, place + 1 == len(prompt)) for place, token in enumerate(prompt[-CHUNK:])]
        with Path(out).open("wb") as file, self.model.context(1, len(items)) as context:
            file.write(np.ascontiguousarray(context.decode(items)).tobytes())
        return {}

    def write(
        self, prompts: Sequence[Sequence[int]], tokens: int, ends: Sequence[int], never: Sequence[int]
    ) -> Answer:
        """Continue each prompt greedily by ``tokens``, or up to one of ``ends``; ``never`` is not written."""
        written = []
        with self.model.context(1, max(map(len, prompts)) + tokens) as context:
            for prompt in prompts:
                context.clear()
                written.append(_continued(context, prompt, tokens, {*ends}, list(never)))
        return {"ids": written}


def _groups(sequences: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Cut sequences into runs that are decoded at once; one that is longer than that stands alone."""
    group: list[Sequence[int]] = []
    for sequence in sequences:
        if group and sum(map(len, group)) + len(sequence) > CHUNK:
            yield group
            group = []
        group.append(sequence)
    if group:
        yield group


def _decoded(context: Context, group: Sequence[Sequence[int]]) -> Iterator[Any]:
    """Yield the logits of a group, all but those after the last token of each sequence."""
    items = [
        (number, place, token, place + 1 < len(sequence))
        for number, sequence in enumerate(group)
        for place, token in enumerate(sequence)
    ]
    for first in range(0, len(items), CHUNK):
        yield context.decode(items[first : first + CHUNK])


def _continued(
    context: Context, prompt: Sequence[int], tokens: int, ends: set[int], never: list[int]
) -> list[int]:
    for first in range(0, len(prompt), CHUNK):
        piece = list(enumerate(prompt))[first : first + CHUNK]
        last = context.decode([(0, place, token, place + 1 == len(prompt)) for place, token in piece])
    written: list[int] = []
    while True:
        logits = np.array(last[-1])
        logits[never] = -np.inf
        written.append(int(logits.argmax()))
        if len(written) == tokens or written[-1] in ends:
            return written
        last = context.decode([(0, len(prompt) + len(written) - 1, written[-1], True)])


def main() -> None:
    # Whatever a library prints must not fall between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        worker = Worker()
    except (InterfaceChanged, ImportError, OSError) as error:
        print(json.dumps({"refused": str(error)}), file=answers, flush=True)
        return
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except (Refused, OSError) as error:
            answer = {"refused": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
