"""NVIDIA ModelOpt: NVFP4 under the plain name, with a scale of groups and one of the matrix."""

from __future__ import annotations

from superweight.checkpoints.forms.compressed_tensors import float4
from superweight.checkpoints.forms.form import Form, Packed, Source


def _holds(source: Source, stem: str) -> bool:
    names = (f"{stem}.weight_scale", f"{stem}.weight_scale_2")
    return source.info(f"{stem}.weight").dtype == "U8" and all(name in source.files for name in names)


def _unpack(source: Source, stem: str) -> Packed:
    return float4(source, f"{stem}.weight", f"{stem}.weight_scale", times=f"{stem}.weight_scale_2")


FORM = Form(
    name="ModelOpt NVFP4",
    made_by="NVIDIA TensorRT Model Optimizer",
    layout="e2m1 weight_scale weight_scale_2 by 16 inputs, the lower half of a byte first",
    suffixes=(".weight",),
    holds=_holds,
    unpack=_unpack,
    checked_against="compressed_tensors' NVFP4 with the matrix's scale inverted; torchao's NVFP4, which "
    "multiplies as well",
)
