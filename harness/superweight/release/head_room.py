"""Find the largest number that a forward pass computes, wherever in the model it arises."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import nn

from superweight.checkpoints.scalars import open_model
from superweight.checkpoints.tensors.locations import locations
from superweight.core.errors import BadInput
from superweight.detection.run_trace import padded
from superweight.measurement.corpus import default_prompt
from superweight.model.subject import Subject


class Largest(NamedTuple):
    """A number's magnitude, and the module that took it in or gave it out."""

    magnitude: float
    module: str


def largest_number(subject: Subject) -> Largest:
    """Return the largest number that any module of the decoder reads or writes on the default prompt.

    The super activation lies in the residual stream; what overflows a dtype may as well be one
    head's values or a gate.
    """
    found = Largest(0.0, "")

    def look(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            nonlocal found
            for tensor in (*arguments, output):
                if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                    continue
                size = float(tensor.detach().abs().max()) if tensor.numel() else 0.0
                if not size <= found.magnitude:
                    found = Largest(size, name)

        return hook

    ids, mask = padded(subject, [subject.encode(default_prompt())])
    with ExitStack() as hooks, torch.no_grad():
        for name, module in subject.model.base_model.named_modules():
            if not list(module.children()):
                hooks.callback(module.register_forward_hook(look(name)).remove)
        subject.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    return found


def largest_of_dtype(subject: Subject) -> float:
    """Return the largest number of the dtype that the release is published to compute in.

    That is the dtype of its matrices. Of packed ones config.json tells it, and where it does not, the
    dtype that the model was loaded in.
    """
    published = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
    try:
        checkpoint = open_model(subject.entry)
        stored = locations(checkpoint)[0].tensor.dtype
        text = checkpoint.config.get("text_config")
        told = [
            part.get(key)
            for part in (checkpoint.config, text)
            for key in ("dtype", "torch_dtype")
            if isinstance(part, Mapping)
        ]
    except BadInput:
        stored, told = "", []  # pickled
    named = next((name for name in (published.get(stored), *told) if name in published.values()), None)
    return torch.finfo(getattr(torch, named) if named else subject.model.dtype).max
