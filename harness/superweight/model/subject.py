"""Define the model under test: its weights, tokenizer and structure, and where it came from."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from superweight.checkpoints.registry import ModelEntry
from superweight.core.errors import BadInput
from superweight.model.architecture import Architecture
from superweight.model.block_list import token_embedding
from superweight.model.projections import Projection, execution_device


@dataclass(frozen=True)
class Provenance:
    """What was measured, on what: recorded beside every result, compared with none.

    ``dequantised`` names the packing of weights that were unpacked into plain layers, or how numbers of
    a GGUF file were rounded.
    """

    source: str
    revision: str | None
    weights_sha256: str
    architecture: str
    parameters: int
    device: str
    dtype: str
    begins_with_bos: bool
    harness: str
    torch: str
    transformers: str
    accelerate: str
    hardware: str | None = None
    dequantised: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return all that is known; what was plain says nothing of packing."""
        known = asdict(self)
        if self.dequantised is None:
            del known["dequantised"]
        return known


class Stream(Protocol):
    """What brings the weights of a model that is not in memory as a whole.

    ``hold_back`` keeps it from bringing the next block before it is entered.
    """

    hold_back: bool

    def at_hand(self, projections: Iterable[Projection]) -> AbstractContextManager[None]:
        """Bring the weights of some projections, and keep them, for the length of a ``with`` block."""


@dataclass(frozen=True)
class Subject:
    """The model under test; ``stream`` brings the weights of one that is run block by block."""

    name: str
    entry: ModelEntry
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    architecture: Architecture
    provenance: Provenance
    stream: Stream | None = None

    def at_hand(self, projections: Iterable[Projection]) -> AbstractContextManager[None]:
        """Have the weights of some projections in memory for the length of a ``with`` block."""
        return nullcontext() if self.stream is None else self.stream.at_hand(projections)

    @property
    def device(self) -> torch.device:
        """The device that token ids are sent to: the embedding's, offloaded or not."""
        return execution_device(token_embedding(self.model) or self.model)

    @property
    def decoder(self) -> PreTrainedModel:
        """The model without its head; beside towers or an encoder, the language model inside."""
        config = self.model.config
        base: PreTrainedModel = self.model.base_model  # type: ignore[assignment]  # of a model it is one
        if config.get_text_config() is config and not getattr(config, "is_encoder_decoder", False):
            return base
        inner: list[PreTrainedModel] = [part for part in base.modules() if isinstance(part, PreTrainedModel)]
        block, words = self.architecture.blocks[0], config.get_text_config().vocab_size
        holding = [
            part
            for part in inner
            if any(item is block for item in part.modules())
            and any(
                isinstance(item, nn.Embedding) and item.num_embeddings >= words for item in part.modules()
            )
        ]
        return min(holding, key=lambda part: len(list(part.modules())), default=base)

    @property
    def relative_step(self) -> float:
        """The spacing of the loaded dtype relative to a value it holds."""
        return torch.finfo(self.model.dtype).eps

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a text, by the model's own settings and its tokenizer's."""
        own = getattr(self.model.generation_config, "eos_token_id", None)
        stated = {*own} if isinstance(own, list) else {own}
        return frozenset(int(end) for end in stated | {self.tokenizer.eos_token_id} if end is not None)

    def encode(self, text: str) -> list[int]:
        """Return token ids with whatever the tokenizer puts in front, BOS or nothing.

        Raises `BadInput` for an id that the model has no embedding for.
        """
        ids: list[int] = self.tokenizer(text)["input_ids"]
        vocabulary = self.model.config.get_text_config().vocab_size
        if max(ids, default=0) >= vocabulary:
            raise BadInput(
                f"the tokenizer of {self.name} gives the token {max(ids)}, but the model has only "
                f"{vocabulary}; the tokenizer belongs to another model"
            )
        return ids


def free(subject: Subject) -> None:
    """Give the memory of a subject's weights back, whoever still holds on to the subject.

    A failed test's traceback holds it, and the next model needs the room.
    """
    for module in subject.model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            # Packed tensors refuse this; they go when nobody holds them any more.
            if tensor is not None and type(tensor) in (torch.Tensor, torch.nn.Parameter):
                tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
