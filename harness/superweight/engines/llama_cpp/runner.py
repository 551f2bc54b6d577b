"""Run a GGUF file in llama.cpp: loaded as it is, or as a copy in which scalars are scaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from superweight.checkpoints.gains import locate_gain
from superweight.checkpoints.gguf_parts import local_parts, unite
from superweight.checkpoints.tensors.files import LocalFile
from superweight.checkpoints.tensors.gguf import read_header
from superweight.checkpoints.tensors.locations import locate, locations
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.engines.engine import LLAMA_CPP, Logits
from superweight.engines.llama_cpp.edited_copy import FLOAT32, ScalarEdit, write_edited
from superweight.engines.llama_cpp.process import WorkerProcess
from superweight.engines.llama_cpp.scratch import Scratch
from superweight.model.edits import Scale, ScaleGain


class LlamaCppRunner:
    """llama.cpp in a process of its own, with one file loaded at a time."""

    name = LLAMA_CPP

    def __init__(self, gguf: Path, *, threads: int, gpu: bool) -> None:
        """Start the process and load ``gguf`` as it is.

        Raises `BadInput` where xllamacpp is not installed or a part of the file is missing, and
        `EngineFailed` where llama.cpp does not load it.
        """
        self._scratch = Scratch()
        parts = local_parts(gguf)
        self._file = gguf if len(parts) == 1 else unite(parts, self._scratch.path / "united.gguf")
        self._checkpoint = open_checkpoint(self._file)
        self._options = {"threads": threads, "gpu": gpu}
        self._numbers = count()
        self._loaded: tuple[Scale | ScaleGain, ...] | None = None
        try:
            self._process = WorkerProcess(gguf.name)
            self._facts = self._process.ask("load", path=str(self._file), **self._options)
        except BaseException:
            self._scratch.remove()
            raise
        self._loaded = ()

    @property
    def place(self) -> tuple[str, str]:
        return f"{self.name}-{self._facts['device']}", self.file_type

    @property
    def file_type(self) -> str:
        """The type of the file as llama.cpp names it (q4_1, q4_k_m), else that of its MLP projections."""
        from gguf import LlamaFileType

        _, metadata = read_header(LocalFile(self._file, self._file.stat().st_size))
        try:
            kind = LlamaFileType(int(str(metadata.get("general.file_type")))).name
        except ValueError:
            kind = locations(self._checkpoint)[0].tensor.dtype
        return kind.removeprefix("MOSTLY_").removeprefix("ALL_").lower()

    @property
    def described(self) -> Mapping[str, Any]:
        return {
            "engine": self.name,
            "xllamacpp": version("xllamacpp"),
            "file_type": self.file_type,
            "device": self._facts["device"],
            "system": self._facts["system"],
        }

    def load(self, edits: Sequence[Scale | ScaleGain] = ()) -> None:
        if self._loaded == tuple(edits):
            return
        self._loaded = None
        if not edits:
            self._process.ask("load", path=str(self._file), **self._options)
        else:
            scalars = self._scalars(edits)
            copy = self._scratch.path / f"edited-{next(self._numbers)}.gguf"
            try:
                write_edited(self._file, copy, sorted({item.tensor for item in scalars}), scalars)
                self._process.ask("load", path=str(copy), **self._options)
            finally:
                # What the process has mapped of it stays readable.
                copy.unlink(missing_ok=True)
        self._loaded = tuple(edits)

    def stored_otherwise(self, edits: Sequence[Scale | ScaleGain]) -> frozenset[str]:
        names = {item.tensor for item in self._scalars(edits)}
        return frozenset(name for name in names if self._checkpoint.info(name).dtype != FLOAT32)

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts, by the file's own tokenizer."""
        return [list(ids) for ids in self._process.ask("tokenise", texts=list(texts))["ids"]]

    def predict(self, sequences: Sequence[Sequence[int]]) -> list[Logits]:
        every = self._logits("predict", sequences=[list(each) for each in sequences])
        ends = np.cumsum([len(each) - 1 for each in sequences])
        return [np.asarray(part) for part in np.split(every, ends[:-1])]

    def predict_next(self, prompt: Sequence[int]) -> Logits:
        """Return the logits behind a prompt: (V,)."""
        return np.asarray(self._logits("predict_next", prompt=list(prompt))[-1])

    def _logits(self, do: str, **request: Any) -> Logits:
        """Return what the process writes to a file, which is gone with the array: (rows, V).

        As wide as the vocabulary, and as many as the tokens of a corpus, they need not be in memory.
        """
        out = self._scratch.path / f"logits-{next(self._numbers)}"
        try:
            self._process.ask(do, **request, out=str(out))
            return np.memmap(out, np.float32, "r").reshape(-1, int(self._facts["vocabulary"]))
        finally:
            out.unlink(missing_ok=True)

    def write(
        self, prompts: Sequence[Sequence[int]], tokens: int, ends: Sequence[int], never: Sequence[int]
    ) -> list[list[int]]:
        asked = [list(prompt) for prompt in prompts]
        answer = self._process.ask("write", prompts=asked, tokens=tokens, ends=list(ends), never=list(never))
        return [list(ids) for ids in answer["ids"]]

    def free(self) -> None:
        self._process.end()
        self._scratch.remove()

    def _scalars(self, edits: Sequence[Scale | ScaleGain]) -> list[ScalarEdit]:
        """Return where the file holds what is edited. Raises `BadInput` where it does not."""
        found = []
        for edit in edits:
            if isinstance(edit, Scale):
                place = edit.coordinate
                (location,) = locate(self._checkpoint, place)
                row, col = (place.col, place.row) if location.transposed else (place.row, place.col)
                found.append(ScalarEdit(location.tensor.name, (*location.leading, row, col), edit.factor))
            else:
                gain = locate_gain(self._checkpoint, edit.coordinate)
                found.append(ScalarEdit(gain.tensor.name, (edit.coordinate.channel,), edit.factor))
        return found
