"""AutoRound's own packing: what is read is what its modules compute with, in each of its formats."""

import importlib.util
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

# In a process of its own: the library changes transformers when it is imported.
MAKE = """
import sys
import torch
from auto_round_extension.torch import qlinear_torch, qlinear_torch_zp
from auto_round.export.export_to_awq.utils import WQLinear_GEMM, dequantize_gemm
from safetensors.torch import save_file

inputs, outputs, group = 64, 32, 32
torch.manual_seed(0)
held = {}
for name, module in (("less one", qlinear_torch_zp), ("as it is", qlinear_torch), ("awq", None)):
    for bits in (2, 3, 4, 8) if module else (4,):
        codes = torch.randint(2**bits, (outputs, inputs))
        zeros = torch.randint(1, 2**bits, (outputs, inputs // group))
        scales = (torch.rand(outputs, inputs // group) / 50 + 0.001).half().float()
        linear = torch.nn.Linear(inputs, outputs, bias=False)
        wide = scales.repeat_interleave(group, 1)
        linear.weight.data = (codes - zeros.repeat_interleave(group, 1)) * wide
        if module:
            packed = module.QuantLinear(bits, group, inputs, outputs, False)
            packed.device = "cpu"
            packed.pack(linear, scales, zeros.float() if bits == 3 else zeros, None)
            matrix = packed(torch.eye(inputs)).T
        else:
            columns = [part.T.contiguous() for part in (scales, zeros)]
            packed = WQLinear_GEMM.from_linear(linear, bits, group, scales=columns[0], zeros=columns[1])
            matrix = dequantize_gemm(packed.qweight, packed.qzeros, packed.scales, bits, group).T
        for part, tensor in packed.state_dict().items():
            held[f"{name}/{bits}/{part}"] = tensor.contiguous()
        held[f"{name}/{bits}/matrix"] = matrix.detach().float().contiguous()
save_file(held, sys.argv[1])
"""
FORMATS = {"less one": "auto_round:auto_gptq", "as it is": "auto_round", "awq": "auto_round:auto_awq"}

# Importing the library takes seconds: one worker does it.
# Importing the library takes as long as all readers of the other packings together.
pytestmark = [pytest.mark.xdist_group("autoround"), pytest.mark.slow]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    if importlib.util.find_spec("auto_round") is None:
        pytest.skip("auto-round is not installed")
    path = tmp_path_factory.mktemp("autoround") / "made.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", MAKE, str(path)], capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stderr[-2000:]
    return load_file(path)


def tensors_of(made, name, bits):
    start = f"{name}/{bits}/"
    found = {key.removeprefix(start): tensor for key, tensor in made.items() if key.startswith(start)}
    return found.pop("matrix"), found


def config_of(name):
    return {"quantization_config": {"quant_method": "auto-round", "packing_format": FORMATS[name]}}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["less one", "as it is"])
def test_gptq_packing_is_read(same, made, name, bits):
    """Zero points are less one where the packing is AutoGPTQ's, and as they are in AutoRound's own."""
    expected, tensors = tensors_of(made, name, bits)
    step = float(tensors["scales"].float().max())
    _, location = same(expected, tensors, config_of(name), rtol=1e-3, atol=step / 50)
    assert f"GPTQ int{bits}" == location.tensor.dtype


def test_awq_packing_is_read(same, made):
    """The nibbles' order, and zero points as they are."""
    expected, tensors = tensors_of(made, "awq", 4)
    _, location = same(expected, tensors, config_of("awq"), rtol=1e-3, atol=1e-5)
    assert "AWQ int4" == location.tensor.dtype


@pytest.mark.parametrize(("made_as", "read_as"), [("less one", "as it is"), ("as it is", "less one")])
def test_zero_points_of_the_other_packing_are_noticed(same, made, made_as, read_as):
    """One more or less is another matrix."""
    expected, tensors = tensors_of(made, made_as, 4)
    with pytest.raises(AssertionError):
        same(
            expected, tensors, config_of(read_as), rtol=1e-3, atol=float(tensors["scales"].float().max()) / 50
        )


def test_the_packings_are_of_one_shape(made):
    """Nothing but config.json tells the two apart."""
    shapes = [
        {k: v.shape for k, v in tensors_of(made, name, 4)[1].items()} for name in ("less one", "as it is")
    ]
    assert shapes[0] == shapes[1]
    assert torch.int32 == tensors_of(made, "as it is", 4)[1]["qzeros"].dtype
