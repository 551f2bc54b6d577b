"""Choose the engine that a model is judged in; one that cannot run it is refused before it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from superweight.checkpoints.adapter_source import named_adapter
from superweight.checkpoints.registry import ModelEntry
from superweight.checkpoints.sources import fetch
from superweight.core.errors import BadInput, EngineFailed
from superweight.core.resources import fixtures_directory
from superweight.engines.engine import ENGINES, LLAMA_CPP, TRANSFORMERS, Engine
from superweight.engines.in_transformers import TransformersEngine
from superweight.engines.llama_cpp.process import require_installed
from superweight.engines.llama_cpp.proof import require_agreement, server_logs
from superweight.engines.llama_cpp.runner import LlamaCppRunner
from superweight.engines.measured import RunnerEngine
from superweight.engines.tokens import require_same_tokens
from superweight.measurement.corpus import continuations, default_prompt, documents, prompts
from superweight.model.subject import Subject


def require_engine(name: str, entry: ModelEntry | None = None) -> None:
    """Raise `BadInput` for an engine that does not exist, is not installed, or is not for a model."""
    if name not in ENGINES:
        raise BadInput(f"engine {name!r} is none of {', '.join(ENGINES)}")
    if name == LLAMA_CPP:
        require_installed()
        if entry is not None and gguf_of(entry) is None:
            raise BadInput(
                f"the engine llama.cpp runs GGUF files, and {entry.name} is none; give a .gguf file, or "
                "leave the engine out"
            )


def gguf_of(entry: ModelEntry) -> Path | None:
    """Return the GGUF file of a model, fetched; None where it is no GGUF."""
    if named_adapter(entry) is not None:
        return None
    # A pickled checkpoint is none, whoever trusts it.
    local = fetch(entry, allow_pickle=True)
    return local.path if local.is_gguf else None


def load_engine(name: str, subject: Subject, corpus: str, *, device: str = "auto") -> Engine:
    """Return the engine that runs a subject's file.

    Raises `BadInput` where it cannot be used, `EngineFailed` where it does not run the file, reads other
    tokens in the text that is measured on, or does not agree with its own server.
    """
    if name == TRANSFORMERS:
        return TransformersEngine(subject)
    require_engine(name, subject.entry)
    gguf = gguf_of(subject.entry)
    if gguf is None:  # refused above
        raise BadInput(f"{subject.name} is no GGUF")
    threads, gpu = torch.get_num_threads(), device != "cpu"
    runner = LlamaCppRunner(gguf, threads=threads, gpu=gpu)
    try:
        require_same_tokens(subject, runner.tokenise, texts_of(corpus))
        prompt = subject.encode(default_prompt())
        server = server_logs(gguf, prompt, _whole_character(subject), threads, gpu=gpu)
        require_agreement(runner.predict_next(prompt), server)
    except BaseException:
        runner.free()
        raise
    return RunnerEngine(subject, runner)


def texts_of(corpus: str) -> Sequence[str]:
    """Return every text that is measured on: the corpus, prompts, openings, and a comparison's probes."""
    probes = sorted((fixtures_directory() / "probes").glob("*.txt"))
    return [
        *prompts().values(),
        *continuations().values(),
        *(file.read_text(encoding="utf-8") for file in probes),
        *documents(corpus),
    ]


def _whole_character(subject: Subject) -> int:
    """Return a token that is a letter of its own, or several."""
    for token in range(len(subject.tokenizer)):
        text = str(subject.tokenizer.decode([token]))
        if text.isascii() and text.isalpha():
            return token
    raise EngineFailed(f"the tokenizer of {subject.name} has no token of letters to hold llama.cpp to")
