"""Where weights go: one GPU, several, main memory, or nowhere; and what that is told by."""

from __future__ import annotations

import json

import accelerate
import pytest
import torch
import transformers
from safetensors.torch import load_file

from superweight.checkpoints.registry import load_registry, resolve
from superweight.core.errors import TooLarge
from superweight.core.resources import fixtures_directory
from superweight.model import loading
from superweight.model.devices import Device
from superweight.model.placement import SLACK, WORKING, need, place_model, stored_bytes
from tests.release.packed_models import pack

GIB = 2**30


def test_what_fits_one_device_goes_there_whole():
    """The need is the weights, a tenth, and room to work in; a byte less free is too little."""
    weights = 10 * GIB
    assert int(weights * SLACK) + WORKING == need(weights)
    assert place_model(weights, [need(weights)]).max_memory is None
    with pytest.raises(TooLarge):
        place_model(weights, [need(weights) - 1])


def test_what_fits_several_is_spread_over_them():
    """Each device keeps its room to work in; main memory is not among them."""
    layout = place_model(20 * GIB, [14 * GIB, 16 * GIB])
    assert {0: int(12 * GIB / SLACK), 1: int(14 * GIB / SLACK)} == layout.max_memory


def test_what_fits_nowhere_is_refused_with_the_numbers():
    """The line says what the weights take, what is needed and what is free."""
    with pytest.raises(TooLarge) as caught:
        place_model(60 * GIB, [40 * GIB, 8 * GIB])
    said = "its weights take 60.0 GiB, so 68.0 GiB are needed to measure it, and free are 40.0 GiB, 8.0 GiB"
    assert said == str(caught.value)


def test_the_rest_may_stay_in_main_memory():
    """Where that is allowed, it takes what the devices do not; where it is too small, that is said."""
    layout = place_model(60 * GIB, [40 * GIB], beside=100 * GIB)
    assert {0: int(38 * GIB / SLACK), "cpu": 100 * GIB} == layout.max_memory
    with pytest.raises(TooLarge, match=r"1\.0 GiB of main memory"):
        place_model(60 * GIB, [40 * GIB], beside=GIB)


def test_accelerate_lays_llama_30b_out_over_two_devices_of_40_gib():
    """The layout that is handed to accelerate leaves nothing in main memory or on disk."""
    weights = load_registry()["huggyllama/llama-30b"].weight_bytes()
    layout = place_model(weights, [40 * GIB, 40 * GIB])
    config = transformers.LlamaConfig(
        vocab_size=32000,
        hidden_size=6656,
        intermediate_size=17920,
        num_hidden_layers=60,
        num_attention_heads=52,
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    assert weights == sum(parameter.nbytes for parameter in model.parameters())
    memory = accelerate.utils.get_balanced_memory(
        model, max_memory=dict(layout.max_memory), no_split_module_classes=["LlamaDecoderLayer"]
    )
    device_map = accelerate.infer_auto_device_map(
        model, max_memory=memory, no_split_module_classes=["LlamaDecoderLayer"]
    )
    assert {0, 1} == set(device_map.values())


def test_loading_asks_for_the_layout(monkeypatch):
    """On one large device everything goes there; over two the map is accelerate's, within their room."""
    cuda = torch.device("cuda")
    monkeypatch.setattr(loading, "present", lambda: (Device("large", 80 * GIB, 80 * GIB),))
    assert {"device_map": {"": cuda}} == loading._layout(cuda, 13 * GIB, offload=False)
    monkeypatch.setattr(loading, "present", lambda: (Device("small", 10 * GIB, 10 * GIB),) * 2)
    room = int(8 * GIB / SLACK)
    expected = {"device_map": "auto", "max_memory": {0: room, 1: room}}
    assert expected == loading._layout(cuda, 13 * GIB, offload=False)
    with pytest.raises(TooLarge):
        loading._layout(cuda, 20 * GIB, offload=False)
    assert "cpu" in loading._layout(cuda, 15 * GIB, offload=True)["max_memory"]


PLANTED = fixtures_directory() / "checkpoints" / "tiny-planted"
ASKED = ("auto", "float32", "float16")


def test_a_dtype_that_is_asked_for_widens_the_need():
    """bfloat16 weights loaded as float32 take twice what their files do."""
    config, stored = transformers.LlamaConfig(dtype=torch.bfloat16), stored_bytes(PLANTED)
    needs = [loading.weight_bytes(PLANTED, name, config, unpacked=False) for name in ASKED]
    assert [stored, 2 * stored, stored] == needs


def test_packed_numbers_need_what_they_take_once_they_are_not(tmp_path):
    """Codes of four bits that nothing computes with become numbers of sixteen, or of 32."""
    packed = pack(PLANTED, tmp_path / "packed", "GPTQ int4")
    config = transformers.AutoConfig.from_pretrained(packed)
    numbers = sum(tensor.numel() for tensor in load_file(PLANTED / "model.safetensors").values())
    assert stored_bytes(packed) < numbers
    assert 2 * numbers == loading.weight_bytes(packed, "auto", config, unpacked=True)
    assert 4 * numbers == loading.weight_bytes(packed, "float32", config, unpacked=True)


def test_stored_bytes_are_those_of_the_checkpoint(tmp_path):
    """Of a sharded checkpoint what its index names, and nothing that lies beside it."""
    assert (PLANTED / "model.safetensors").stat().st_size == stored_bytes(PLANTED)
    for name, size in {"a.safetensors": 3, "b.safetensors": 4, "consolidated.safetensors": 7}.items():
        (tmp_path / name).write_bytes(bytes(size))
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "a.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert 7 == stored_bytes(tmp_path)


def test_the_registry_tells_the_need_before_a_model_is_there():
    """Parameters times the bytes of the dtype stored, or of the one that is asked for."""
    assert 2 * 7_241_732_096 == resolve("mistralai/Mistral-7B-v0.1").weight_bytes()
    assert 4 * 7_241_732_096 == resolve("mistralai/Mistral-7B-v0.1").weight_bytes(4)
    assert resolve("some/stranger").weight_bytes() is None
