"""Random Llamas with a planted super weight: one of Llama-7B's shape for CUDA, a small one anywhere.

Both are initialised so that a block writes about as much to the residual stream, whatever its width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers

from superweight.core.coordinates import Coordinate
from superweight.model.devices import make_deterministic
from superweight.model.subject import Subject
from tests.helpers.live_models import random_model

TEXT = "A short prompt."
# Far over the largest of a random model, and far under what float16 holds.
PRODUCT = 5000.0


@dataclass(frozen=True)
class Size:
    """A shape, where it is built, and where its super weight is planted."""

    device: str
    dtype: torch.dtype
    place: Coordinate
    shape: Mapping[str, Any]

    def build(self, template: Subject) -> Subject:
        """Return a seeded random model, generated on the device, in ``template``'s tokenizer."""
        if self.device == "cuda":
            make_deterministic()
        wide = {"initializer_range": 0.02 * (4096 / self.shape["hidden_size"]) ** 0.5}
        config = transformers.LlamaConfig(**self.shape, **wide)
        name = str(self.place)
        return random_model(template, config, seed=11, name=name, device=self.device, dtype=self.dtype)


SMALL = Size(
    "cpu",
    torch.float32,
    Coordinate(2, 41, 103),
    {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
    },
)
# The paper's coordinate of Llama-7B, in its shape and dtype.
SEVEN_B = Size(
    "cuda",
    torch.float16,
    Coordinate(2, 3968, 7003),
    {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
)
SIZES = [
    pytest.param(SMALL, id="small-cpu"),
    pytest.param(SEVEN_B, id="7B-cuda", marks=[pytest.mark.gpu, pytest.mark.slow]),
]
