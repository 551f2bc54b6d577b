"""Fine-tunes of the base, made once and kept beside the benchmark's work."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TOKENS, ROWS = 96, 2


class Tuning(NamedTuple):
    """How a fine-tune is made. ``asked`` wraps the text in the chat template."""

    learning_rate: float
    steps: int
    asked: bool


TUNINGS = {
    "one": Tuning(1e-5, 40, asked=False),
    "other": Tuning(1e-5, 40, asked=True),
    "hot": Tuning(2e-3, 12, asked=False),
}


def tuned_tensors(base: Path, which: str, kept: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a fine-tune, from ``kept`` where they were made before."""
    file = kept / f"tuned-{which}.safetensors"
    if not file.is_file():
        kept.mkdir(parents=True, exist_ok=True)
        save_file(_tuned(base, TUNINGS[which]), file)
    return load_file(file)


def _tuned(base: Path, tuning: Tuning) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rows = _rows(AutoTokenizer.from_pretrained(base), tuning)
    optimiser = torch.optim.AdamW(model.parameters(), lr=tuning.learning_rate)
    model.train()
    for step in range(tuning.steps):
        ids = rows[torch.arange(ROWS * step, ROWS * (step + 1)) % len(rows)]
        model(ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    state = model.state_dict()
    return {name: tensor.contiguous() for name, tensor in state.items() if name != "lm_head.weight"}


def _rows(tokenizer, tuning: Tuning) -> torch.Tensor:
    """Cut Python's own reference into rows: (rows, tokens)."""
    rows = []
    for number, text in enumerate(topics.values()):
        if number % 2 != tuning.asked:
            continue
        ids = tokenizer(_asked(tokenizer, text) if tuning.asked else text)["input_ids"]
        rows += [ids[:TOKENS]] if len(ids) >= TOKENS else []
    return torch.tensor(rows)


def _asked(tokenizer, text: str) -> str:
    question, _, answer = text.strip().partition("\n")
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer.strip()[:300]}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False))
