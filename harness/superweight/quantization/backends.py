"""Real quantisers, torchao and bitsandbytes, with or without the super weights held out.

Their kernels compute; what is held out is left out before they round, and restored by a correction of
the module's output. Both are optional: pip install
'superweight-harness[builds]'.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput, EditFailed
from superweight.core.reason import reason
from superweight.model.column_probe import one_hot_inputs, without_bias
from superweight.model.forward_override import shadowed
from superweight.model.subject import Subject
from superweight.quantization.hold_out import clip_, held_out
from superweight.quantization.linear_layers import Matrix, hold_out_places, matrices_of

# Rounded twice, once by the module and once by the correction.
_ROUNDINGS = 4.0


@dataclass(frozen=True)
class Quantiser:
    """One quantiser of one library: ``build`` makes its module of a float nn.Linear.

    ``block`` is how many weights share a step, 0 for a row; ``bits`` is how many each of them takes.
    """

    name: str
    library: str
    block: int
    bits: int
    build: Callable[[nn.Linear], nn.Module]

    def __str__(self) -> str:
        return f"{self.library} {self.name}, {f'blocks of {self.block:,}' if self.block else 'rows'}"


def _torchao_int8(linear: nn.Linear) -> nn.Module:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(linear, Int8WeightOnlyConfig())
    return linear


def _torchao_int4(block: int) -> Callable[[nn.Linear], nn.Module]:
    def build(linear: nn.Linear) -> nn.Module:
        from torchao.quantization import IntxWeightOnlyConfig, PerAxis, PerGroup, quantize_

        shared = PerGroup(block) if block else PerAxis(0)
        four_bits = torch.int4  # type: ignore[attr-defined]  # missing from torch's stubs
        quantize_(linear, IntxWeightOnlyConfig(weight_dtype=four_bits, granularity=shared))
        return linear

    return build


def _bitsandbytes_int8(linear: nn.Linear) -> nn.Module:
    bnb: Any = importlib.import_module("bitsandbytes.nn")  # its functions have no types
    module = bnb.Linear8bitLt(
        linear.in_features, linear.out_features, bias=linear.bias is not None, has_fp16_weights=False
    )
    module.weight = bnb.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    return _on_device(module, linear)


def _bitsandbytes_nf4(block: int) -> Callable[[nn.Linear], nn.Module]:
    def build(linear: nn.Linear) -> nn.Module:
        bnb: Any = importlib.import_module("bitsandbytes.nn")  # its functions have no types
        module = bnb.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=linear.weight.dtype,
            quant_type="nf4",
        )
        module.weight = bnb.Params4bit(
            linear.weight.data, requires_grad=False, quant_type="nf4", blocksize=block, module=module
        )
        return _on_device(module, linear)

    return build


def _on_device(module: nn.Module, linear: nn.Linear) -> nn.Module:
    if linear.bias is not None:
        module.bias = linear.bias
    # bitsandbytes rounds when its module is sent somewhere.
    return module.to(linear.weight.device)


def _quantisers() -> Iterator[Quantiser]:
    yield Quantiser("int8 weight-only", "torchao", 0, 8, _torchao_int8)
    for block in (32, 64, 192, 0):
        yield Quantiser("int4 weight-only", "torchao", block, 4, _torchao_int4(block))
    yield Quantiser("int8", "bitsandbytes", 0, 8, _bitsandbytes_int8)
    for block in (64, 256):
        yield Quantiser("nf4", "bitsandbytes", block, 4, _bitsandbytes_nf4(block))


QUANTISERS: Mapping[str, Quantiser] = {str(quantiser): quantiser for quantiser in _quantisers()}


@contextmanager
def really_quantised(
    subject: Subject,
    quantiser: Quantiser,
    *,
    hold_out_super_weights: Collection[Coordinate] = (),
    clip: float | None = None,
) -> Iterator[None]:
    """Compute with a real quantiser's modules for the length of a ``with`` block.

    ``hold_out_super_weights`` names the scalars that are left out before it rounds and restored after;
    everything else is clipped at ``clip`` first. Beyond the model this needs its quantised copy. Raises
    `BadInput` for a library that is not installed or does not take the model's matrices, and
    `EditFailed` when a scalar is not what it was, or nothing was quantised.
    """
    if importlib.util.find_spec(quantiser.library) is None:
        raise BadInput(f"{quantiser} needs {quantiser.library}: pip install 'superweight-harness[builds]'")
    matrices = matrices_of(subject)
    places = hold_out_places(subject, matrices, hold_out_super_weights)
    exact = {place: subject.architecture.value(place) for place in hold_out_super_weights}
    with ExitStack() as undo:
        errors = []
        for matrix in matrices:
            intended = _left_over(matrix, places.get(matrix.module), clip)
            module = _built(quantiser, matrix, intended.clone())
            errors.append(_error(quantiser, matrix, intended, module))
            undo.enter_context(shadowed(matrix.module, module.__call__))
        if not any(errors):
            raise EditFailed(f"{quantiser} left every matrix as it was")
        for matrix in matrices:
            if matrix.module in places:
                undo.enter_context(_restored(subject, matrix, exact))
        yield


def _left_over(matrix: Matrix, places: Any, clip: float | None) -> torch.Tensor:
    """Return what is left to be quantised: zero where a scalar is held out, clipped elsewhere."""
    weight = matrix.weight().to(matrix.stored.dtype, copy=True, memory_format=torch.contiguous_format)
    with held_out(weight, places or (), stand_in=0.0):
        if clip is not None:
            clip_(weight, clip)
        return weight.clone()


def _built(quantiser: Quantiser, matrix: Matrix, weight: torch.Tensor) -> nn.Module:
    bias = getattr(matrix.module, "bias", None)
    outputs, inputs = weight.shape
    if quantiser.library == "bitsandbytes" and quantiser.block and inputs % quantiser.block:
        # Version 0.50.2 then reads another block's scale on a CPU with AVX-512.
        raise BadInput(
            f"{quantiser} does not take block {matrix.layer}, {matrix.path}: its {inputs} inputs are no "
            f"multiple of {quantiser.block}; give a smaller block"
        )
    linear = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = bias
    try:
        return quantiser.build(linear).requires_grad_(False)
    # The libraries raise whatever their kernels do: shapes, devices, missing builds.
    except Exception as error:
        raise BadInput(
            f"{quantiser} does not take block {matrix.layer}, {matrix.path}: {reason(error)}"
        ) from error


def _error(quantiser: Quantiser, matrix: Matrix, intended: torch.Tensor, module: nn.Module) -> float:
    """Return by how much the column of the largest entry moved; raises `EditFailed` if that is no rounding.

    The largest entry sets its own block's step, so it comes back within one step of it.
    """
    row, col = divmod(int(intended.abs().argmax()), intended.shape[1])
    found, wanted = _column(module, intended, col), intended[:, col]
    step = abs(float(wanted[row])) / (2 ** (quantiser.bits - 1) - 1)
    if not abs(float(found[row] - wanted[row])) <= step:
        raise EditFailed(
            f"{quantiser} computes block {matrix.layer}, {matrix.path} with {float(found[row]):g} where "
            f"{float(wanted[row]):g} stands: that is no rounding"
        )
    return float((found - wanted).abs().max())


def _column(module: nn.Module, weight: torch.Tensor, col: int) -> torch.Tensor:
    probe = one_hot_inputs([col], weight.shape[1], dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        return without_bias(module(probe))[0]


@contextmanager
def _restored(subject: Subject, matrix: Matrix, exact: Mapping[Coordinate, float]) -> Iterator[None]:
    """Correct the module's output until its held-out scalars are what they were, and prove it."""
    with ExitStack() as undo:
        for place, value in exact.items():
            projection = subject.architecture.projection(place)
            if projection.module is not matrix.module:
                continue
            missing = value - subject.architecture.value(place)
            row, col = torch.tensor([place.row]), torch.tensor([place.col])
            change = torch.tensor([missing], dtype=matrix.stored.dtype)
            undo.enter_context(projection.corrected(row, col, change))
            found = subject.architecture.value(place)
            step = torch.finfo(matrix.stored.dtype).eps * abs(value)
            if not abs(found - value) <= _ROUNDINGS * step:
                raise EditFailed(f"restoring {place} gave {found:g} where {value:g} was meant")
        yield
