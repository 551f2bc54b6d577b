"""What is no checkpoint of transformers is named as what it is, with what to give instead."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superweight.checkpoints.recognition import mlx, quantised_elsewhere, unlisted_shards, what_it_is
from superweight.checkpoints.registry import ModelEntry
from superweight.checkpoints.sources import fetch
from superweight.checkpoints.tensors.open import open_checkpoint

FORMS = {
    "openvino_model.xml": "an OpenVINO model",
    "openvino_model.bin": "an OpenVINO model",
    "model.engine": "a TensorRT engine",
    "rank0.engine": "a TensorRT engine",
    "rank0.safetensors": "a TensorRT-LLM checkpoint",
    "model.mlpackage": "a CoreML model",
    "Model.mlmodel": "a CoreML model",
    "params_shard_0.bin": "an MLC model",
    "model.onnx": "an ONNX model",
    "onnx/model_q4.onnx": "an ONNX model",
    "model.pte": "an ExecuTorch program",
    "model.tflite": "a LiteRT (TensorFlow Lite) model",
    "weights.npz": "an MLX model of numpy arrays",
    "weights.00.npz": "an MLX model of numpy arrays",
    "ggml-model-q4_0.bin": "a GGML file of before GGUF",
    "m.llamafile": "a llamafile",
    "model.nemo": "a NeMo checkpoint",
    "tf_model.h5": "a TensorFlow checkpoint",
    "flax_model.msgpack": "a Flax checkpoint",
    "model_index.json": "a diffusers pipeline, no language model",
    "__0_0.distcp": "a checkpoint of a distributed training",
    "global_step9/mp_rank_00_model_states.pt": "a checkpoint of a distributed training",
    "consolidated.safetensors": "in Mistral's or Meta's own layout",
    "consolidated.00.pth": "in Mistral's or Meta's own layout",
}
# What a training leaves beside the weights.
LEFTOVERS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")


@pytest.fixture
def folder(tmp_path):
    """A folder of empty files, and how to fill it."""

    def fill(*names, **documents):
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        for name, content in documents.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return tmp_path

    return fill


@pytest.fixture
def said(refusal):
    """The one line that every way to the files gives for a folder."""

    def line(path):
        first = refusal(fetch, ModelEntry(name="m", source=str(path)))
        assert first == refusal(open_checkpoint, path)
        return first

    return line


@pytest.mark.parametrize(("file", "name"), FORMS.items())
@pytest.mark.parametrize("config", [{}, {"model_type": "llama"}], ids=["empty config", "config"])
def test_a_form_is_named_with_what_to_give(folder, said, file, name, config):
    """Whether or not a config.json lies beside it, loading and reading say the same."""
    path = folder(file, *LEFTOVERS, config=config)
    line = said(path)
    assert line.startswith(f"{path} is {name} ({file}), which is not read; ")
    assert "give " in line


def test_files_of_no_form_are_no_form(folder, refusal):
    """A folder with a config and a readme lacks its weights, and is nothing else."""
    path = folder("README.md", config={})
    assert "its weights are missing" in refusal(fetch, ModelEntry(name="m", source=str(path)))


def test_pickles_that_are_no_weights_are_not_offered_for_trust(folder, refusal):
    """An optimizer's state is no model, trusted or not."""
    path = folder(*LEFTOVERS, config={})
    line = refusal(fetch, ModelEntry(name="m", source=str(path)), allow_pickle=True)
    assert "its weights are missing" in line


@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_is_named_with_its_base(folder, said, weights):
    """It says what it is, what it belongs to, and how a model is made of it."""
    path = folder(weights, adapter_config={"peft_type": "LORA", "base_model_name_or_path": "org/base"})
    line = said(path)
    assert line.startswith(f"{path} is only a LoRA adapter of org/base, not a model; ")
    assert "merge_and_unload" in line


def test_an_adapter_whose_config_is_broken_is_still_one(folder, said):
    """The file's name is enough."""
    path = folder("adapter_model.safetensors")
    (path / "adapter_config.json").write_text("{")
    assert "is only a PEFT adapter, not a model" in said(path)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"quantization_config": {"quant_method": "exl2"}}, "an EXL2 model"),
        ({"quantization_config": {"quant_method": "exl3"}}, "an EXL3 model"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "an MLX model of 4 bits"),
        ({"quantization_config": {"group_size": 64, "bits": 8}}, "an MLX model of 8 bits"),
        ({"quantization_config": {"quant_method": "gptq", "group_size": 64, "bits": 4}}, None),
        ({"quantization_config": {"quant_method": "fp8"}}, None),
        ({"quantization_config": None}, None),
        ({}, None),
    ],
)
def test_a_quantisation_of_another_library_is_known_by_its_config(config, name):
    """GPTQ writes bits and group_size as well, and says who it is."""
    assert name == (quantised_elsewhere(config) or mlx(config))


def test_exl2_is_named_where_its_file_is_not_called_as_transformers_does(folder, said):
    """Its weights lie in output.safetensors."""
    path = folder("output.safetensors", config={"quantization_config": {"quant_method": "exl2"}})
    assert f"{path} is an EXL2 model, which is not read" in said(path)


def test_shards_without_an_index_are_named(folder, said):
    """One of three is missing; which file holds what is then nobody's to say."""
    path = folder("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", config={})
    assert "holds model-00001-of-00003.safetensors and no model.safetensors.index.json" in said(path)


def test_a_variant_is_named_with_the_name_it_needs(folder, said):
    """transformers loads model.fp16.safetensors only by request."""
    line = said(folder("model.fp16.safetensors", config={}))
    assert "(model.fp16.safetensors); copy it to a folder as model.safetensors" in line


def test_a_folder_of_gguf_files_names_them(folder, said):
    """A split one by its first part; a projector for images is no model."""
    path = folder(
        "a-Q4_K_M.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf", "mmproj-f16.gguf", config={}
    )
    expected = f"{path} holds only GGUF files; name the one that is meant: {path}/a-Q4_K_M.gguf, or one of "
    assert f"{expected}b-00001-of-00002.gguf" == said(path)


def test_one_gguf_file_is_named_by_itself(folder, said):
    """There is nothing to choose from."""
    path = folder("a-Q4_K_M.gguf", config={})
    assert f"{path} holds only GGUF files; name the one that is meant: {path}/a-Q4_K_M.gguf" == said(path)


@pytest.mark.parametrize(
    ("names", "whole"),
    [
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], True),
        (["model-00001-of-00002.safetensors"], False),
        (["model-00002-of-00002.safetensors"], False),
        (["model-00001-of-00001.safetensors"], True),
        (["model-00001-of-00002.safetensors", "model-00002-of-00003.safetensors"], False),
        (["model-1-of-2.safetensors", "model-01-of-2.safetensors", "model-2-of-2.safetensors"], False),
        (["model-00001-of-00001.safetensors", "model.safetensors.index.json"], False),
        ([], False),
    ],
)
def test_shards_are_whole_where_their_numbers_say_so(names, whole):
    """All of one count, each once; where there is an index, it says."""
    assert (sorted(names) if whole else []) == unlisted_shards(names)


def test_a_folder_of_checkpoints_names_the_last(folder, said):
    """A training writes checkpoint-500 and checkpoint-1000 and no model above them."""
    path = folder("checkpoint-500/config.json", "checkpoint-1000/config.json", *LEFTOVERS)
    assert f"holds no model itself, but 2 in folders below it; give {path}/checkpoint-1000" in said(path)


@given(st.lists(st.text(alphabet="aomdelx0-._/" + "nghbitsf", max_size=24)), st.binary(max_size=20))
def test_whatever_a_folder_holds_is_told_in_one_line(names, content):
    """No name and no document raises, and no line ends in a colon."""
    line = what_it_is("folder", names, lambda name: content) or "x"
    assert 1 == len(line.splitlines())
    assert not line.rstrip().endswith(":")
