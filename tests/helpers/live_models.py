"""Models in memory: random ones, scalars planted in them, and what they answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import transformers

from superweight.core.coordinates import Coordinate
from superweight.detection.run_trace import trace
from superweight.model.architecture import inspect_architecture
from superweight.model.subject import Subject

TEXT = "The bridge was closed."


def logits(subject: Subject, text: str = TEXT) -> torch.Tensor:
    """Return the logits of a text, shape (1, tokens, vocabulary)."""
    ids = torch.tensor([subject.encode(text)], device=subject.device)
    with torch.no_grad():
        return subject.model(input_ids=ids, use_cache=False).logits


def same_bits(before: Iterable[torch.Tensor], after: Iterable[torch.Tensor]) -> bool:
    """Tell whether all tensors are equal bit for bit: NaN equals itself, and -0.0 is not 0.0."""
    return all(
        torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
        for one, other in zip(before, after, strict=True)
    )


def random_model(
    template: Subject,
    config: transformers.PreTrainedConfig,
    *,
    seed: int,
    name: str = "random",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Subject:
    """Return a seeded random model of a config, in the tokenizer of ``template``."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.eval().requires_grad_(False)
    return replace(template, name=name, model=model, architecture=inspect_architecture(model))


def random_llama(template: Subject, *, seed: int, name: str = "random", **shape: Any) -> Subject:
    """Return a seeded random Llama, in the tokenizer of ``template``."""
    return random_model(template, transformers.LlamaConfig(**shape), seed=seed, name=name)


def activity(subject: Subject, place: Coordinate, text: str) -> float:
    """Return the input of a neuron at the token where it is most active."""
    (write,) = trace(subject, text).writes[place.layer]
    inputs = write.inputs[:, place.col]
    return float(inputs[abs(inputs).argmax()])


@contextmanager
def set_scalars(subject: Subject, scalars: Mapping[Coordinate, float]) -> Iterator[None]:
    """Put values at coordinates, and take them out again."""
    weights = {place: subject.architecture.projection(place).weight() for place in scalars}
    stored = {place: weights[place][place.row, place.col].clone() for place in scalars}
    try:
        for place, value in scalars.items():
            weights[place][place.row, place.col] = value
        yield
    finally:
        for place, value in stored.items():
            weights[place][place.row, place.col] = value
