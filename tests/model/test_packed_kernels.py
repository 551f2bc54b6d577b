"""What computes with packed weights on a device, and when nothing that is installed does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from superweight.model import dequantised


def needs(method, device, monkeypatch, *installed):
    monkeypatch.setattr(dequantised, "_installed", lambda package: package in installed)
    settings = {"quant_method": method}
    config = SimpleNamespace(quantization_config=settings, to_dict=lambda: {"quantization_config": settings})
    config.get_text_config = lambda: config
    return dequantised.needs_dequantising(config, torch.device(device))


@pytest.mark.parametrize(
    ("method", "package"),
    [
        ("gptq", "gptqmodel"),
        ("awq", "gptqmodel"),
        ("fp8", "kernels"),
        ("mxfp4", "kernels"),
        ("fbgemm_fp8", "fbgemm_gpu"),
        ("bitsandbytes", "bitsandbytes"),
    ],
)
def test_a_gpu_computes_with_codes_where_their_kernels_are_installed(method, package, monkeypatch):
    """Without them the numbers are computed with; transformers alone has none for FP8 and MXFP4."""
    assert needs(method, "cuda", monkeypatch)
    assert not needs(method, "cuda", monkeypatch, package)


@pytest.mark.parametrize("method", ["gptq", "fp8", "mxfp4"])
def test_a_cpu_has_no_kernels_for_most_codes(method, monkeypatch):
    """Whatever is installed."""
    assert needs(method, "cpu", monkeypatch, "gptqmodel", "kernels")


def test_a_method_that_nobody_knows_is_dequantised(monkeypatch):
    """Readers of its own are asked for it."""
    assert needs("another", "cuda", monkeypatch, "another")
