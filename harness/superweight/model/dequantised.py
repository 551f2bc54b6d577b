"""Fill a model of plain linear layers with the numbers of a packed release.

Most packings have kernels for GPUs alone. Their numbers can be computed with anywhere.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from superweight.checkpoints.dequantised import PlainTensor, kinds, plain_tensors
from superweight.checkpoints.recognition import mlx
from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.decoding import Floats
from superweight.core.errors import BrokenModel

# By quant_method, what computes with packed weights on a CPU where it is installed.
_ON_CPU = {"compressed-tensors": "compressed_tensors", "bitsandbytes": "bitsandbytes", "torchao": "torchao"}
# The same on a GPU. For fp8 and mxfp4 transformers brings its kernels by the package of that name.
_ON_GPU = {
    **_ON_CPU,
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "auto-round": "auto_round",
    "hqq": "hqq",
    "quanto": "optimum.quanto",
    "fp8": "kernels",
    "fbgemm_fp8": "fbgemm_gpu",
    "mxfp4": "kernels",
}
_SETTINGS = ("quantization_config", "quantization")


def needs_dequantising(config: PreTrainedConfig, device: torch.device) -> bool:
    """Tell whether nothing that is installed computes with a model's packed weights on a device."""
    if mlx(config.to_dict()) is not None:
        return True
    method = quantisation_method(config)
    if method is None:
        return False
    package = (_ON_CPU if device.type == "cpu" else _ON_GPU).get(method)
    return package is None or not _installed(package)


def quantisation_method(config: PreTrainedConfig) -> str | None:
    """Return what config.json calls the packing, empty where it has no name, None for plain weights."""
    for place in (config, config.get_text_config()):
        settings = getattr(place, "quantization_config", None)
        if settings is not None:
            settings = settings if isinstance(settings, dict) else settings.to_dict()
            method = str(settings.get("quant_method", ""))
            # bitsandbytes of before quant_method.
            unnamed = settings.get("load_in_4bit") or settings.get("load_in_8bit")
            return "bitsandbytes" if not method and unnamed else method
    return None


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a package in a package
        return False


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when transformers slices it, as it does with those of safetensors files."""

    tensor: PlainTensor
    shape: tuple[int, ...]
    transposed: bool

    def __getitem__(self, _: object) -> torch.Tensor:
        numbers = _writable(self.tensor.read())
        numbers = numbers.transpose(-1, -2) if self.transposed else numbers
        return numbers.reshape(self.shape).contiguous()

    @property
    def in_order(self) -> bool:
        """Whether what is at an index of the first dimension is what the file holds at that index."""
        return not self.transposed and self.shape == self.tensor.shape

    @property
    def in_parts(self) -> bool:
        """Whether what is at an index of the first dimension, a row or a matrix, is read by itself."""
        if not self.transposed:
            return self.in_order and len(self.shape) > 1
        whole = self.tensor.shape
        return len(whole) == 3 and self.shape == (whole[0], whole[2], whole[1])

    def part(self, index: int) -> torch.Tensor:
        """Read what is at an index of the first dimension."""
        numbers = _writable(self.tensor.part(index))
        return (numbers.T if self.transposed else numbers).contiguous()


def _writable(numbers: Floats) -> torch.Tensor:
    # What a file's bytes are looked at through is not to be written to, and a parameter may be.
    return torch.from_numpy(np.require(numbers, requirements="W"))


def load_dequantised(
    checkpoint: Checkpoint, config: PreTrainedConfig, auto_class: Any, **options: Any
) -> tuple[PreTrainedModel, Mapping[str, Any], str | None]:
    """Return the unquantised model of ``config`` with a checkpoint's numbers, as ``from_pretrained`` does.

    The second value is transformers' report of the loading, the third what the weights were packed as.
    Raises `BadInput` for packings that are not read, and `BrokenModel` for tensors that do not fit.
    """
    plain = unquantised(config)
    trust = bool(options.pop("trust_remote_code", False))
    with torch.device("meta"):
        skeleton = auto_class.from_config(plain, trust_remote_code=trust)
    tensors = plain_tensors(checkpoint)
    wanted = Wanted(skeleton)
    state = {name: wanted.lazily(name, tensor, checkpoint) for name, tensor in tensors.items()}
    model, report = type(skeleton).from_pretrained(None, config=plain, state_dict=state, **options)
    return model, report, kinds(tensors)


def unquantised(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a config without what it says of packing."""
    plain = copy.deepcopy(config)
    for place in (plain, plain.get_text_config()):
        for name in _SETTINGS:
            if hasattr(place, name):
                delattr(place, name)
    return plain


class Wanted:
    """The shapes of a model's own tensors, and which of its matrices lie inputs first."""

    def __init__(self, skeleton: PreTrainedModel) -> None:
        self._shapes = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
        self._prefix = f"{skeleton.base_model_prefix}."
        self._inputs_first = {
            f"{name}.weight" for name, module in skeleton.named_modules() if type(module).__name__ == "Conv1D"
        }

    def lazily(self, name: str, tensor: PlainTensor, checkpoint: Checkpoint) -> LazyTensor:
        own = next((other for other in (name, self._prefix + name) if other in self._shapes), None)
        # What was plain lies as the model's own does.
        turned = tensor.packed is not None and (tensor.inputs_first or own in self._inputs_first)
        shape = (*tensor.shape[:-2], tensor.shape[-1], tensor.shape[-2]) if turned else tensor.shape
        if own is not None and tensor.packed is not None and shape != self._shapes[own]:
            wanted = self._shapes[own]
            # The rows of some packings follow from the shape alone; their numbers are in order.
            if tensor.packed.flat and _count(shape) == _count(wanted):
                return LazyTensor(tensor, wanted, transposed=False)
            raise BrokenModel(
                f"{checkpoint.name}: {name}, {tensor.kind}, unpacks to shape {list(shape)} where config.json "
                f"asks for {list(wanted)}; the two do not belong together"
            )
        return LazyTensor(tensor, shape, turned)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
