"""Builds of one model, quantised, cast, packed, sharded, offloaded: each read and edited as it computes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import accelerate
import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from superweight.checkpoints.registry import resolve
from superweight.core.errors import UnknownArchitecture
from superweight.detection.run_trace import trace
from superweight.detection.scan import SUPPRESSED, head_room, scan
from superweight.model.architecture import inspect_architecture
from superweight.model.edits import Prune, Scale, edited
from superweight.model.loading import load
from tests.helpers.checkpoint_files import finish_gguf

from .families import GATED, TEXT, Tiny, planted_in

# Wide enough for blocks of 32 and 64 in every matrix.
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True)
class Release:
    """A checkpoint with one planted super weight, and what it held before anything was done to it."""

    path: Any
    subject: Any
    place: Any
    value: float

    def reopened(self, **options):
        """Return the checkpoint as transformers loads it with ``options``."""
        model = transformers.AutoModelForCausalLM.from_pretrained(self.path, **options)
        return replace(
            self.subject, name="build", model=model.eval(), architecture=inspect_architecture(model)
        )


@pytest.fixture(scope="module")
def release(planted, tmp_path_factory):
    """The checkpoint whose builds are tested: float32, one file."""
    path = tmp_path_factory.mktemp("release")
    subject = Tiny(GATED, "LlamaConfig", SHAPE).build(planted)
    with planted_in(subject) as place:
        subject.model.save_pretrained(path)
        planted.tokenizer.save_pretrained(path)
        yield Release(path, subject, place, subject.architecture.value(place))


def assert_measurable(subject, release, *, within):
    """The planted scalar is read within the build's own step, found, pruned, and there again."""
    place = release.place
    value = subject.architecture.value(place)
    assert release.value == pytest.approx(value, rel=within)
    found = scan(subject, TEXT)
    assert ((place,), SUPPRESSED, 1) == (found.coordinates, found.stop_reason, found.passes)
    before = trace(subject, TEXT).residual
    with edited(subject, [Prune(place)]):
        assert 0.0 == pytest.approx(subject.architecture.value(place), abs=1e-3 * abs(value))
        assert abs(trace(subject, TEXT).residual).max() < 0.5 * abs(before).max()
    assert value == subject.architecture.value(place)
    assert (before == trace(subject, TEXT).residual).all()


# How each build is made, and how far rounding may move a scalar that is its own block's largest.
QUANTISED = {
    "bitsandbytes int8": (
        lambda: {
            "quantization_config": transformers.BitsAndBytesConfig(load_in_8bit=True),
            "dtype": torch.float16,
        },
        1 / 127,
    ),
    "bitsandbytes 4-bit nf4": (
        lambda: {
            "quantization_config": transformers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
            ),
            "dtype": torch.bfloat16,
        },
        1 / 64,
    ),
    "bitsandbytes 4-bit fp4": (
        lambda: {
            "quantization_config": transformers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_compute_dtype=torch.bfloat16
            ),
            "dtype": torch.bfloat16,
        },
        1 / 64,
    ),
    "torchao int8 weight-only": (
        lambda: {"quantization_config": torchao_config("Int8WeightOnlyConfig"), "dtype": torch.float32},
        1 / 127,
    ),
    "torchao int4 in groups": (
        lambda: {"quantization_config": torchao_config("IntxWeightOnlyConfig"), "dtype": torch.float32},
        1 / 7,
    ),
}


def torchao_config(name):
    from torchao import quantization

    grouped = {"weight_dtype": torch.int4, "granularity": quantization.PerGroup(32)}
    options = grouped if name == "IntxWeightOnlyConfig" else {}
    return transformers.TorchAoConfig(getattr(quantization, name)(**options))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", list(QUANTISED))
def test_a_quantised_build_is_read_by_probe_and_edited_by_hook(name, device, release, record_property):
    """Its packed weight is not writable, and the scalar is the one its kernel computes with."""
    pytest.importorskip(name.split()[0], reason="the extra builds brings it")
    record_property("build", name if device == "cpu" else f"{name}, on CUDA")
    options, within = QUANTISED[name]
    subject = release.reopened(**options(), **({} if device == "cpu" else {"device_map": {"": device}}))
    assert device == subject.device.type
    assert not subject.architecture.projection(release.place).writable
    assert_measurable(subject, release, within=within)


@pytest.mark.gpu
def test_torchao_int4_tiles_are_read_by_probe(release, record_property):
    """The tiled int4 layout has kernels for CUDA only."""
    pytest.importorskip("mslk", reason="torchao makes its int4 tiles with mslk, which no package index has")
    record_property("build", "torchao int4 tiles")
    from torchao.quantization import Int4WeightOnlyConfig

    config = transformers.TorchAoConfig(Int4WeightOnlyConfig(group_size=32))
    subject = release.reopened(quantization_config=config, dtype=torch.bfloat16, device_map={"": "cuda"})
    assert_measurable(subject, release, within=1 / 7)


@pytest.mark.parametrize(("dtype", "within"), [("float32", 0), ("bfloat16", 2**-8), ("float16", 2**-11)])
def test_a_cast_is_measured_and_its_head_room_reported(dtype, within, release, record_property):
    """The scalar moves by the dtype's rounding; the largest activation is set against its maximum."""
    record_property("build", dtype)
    subject = load(resolve(str(release.path)), device="cpu", dtype=dtype)
    assert_measurable(subject, release, within=within or 1e-12)
    room = head_room(subject, scan(subject, TEXT))
    limit = torch.finfo(getattr(torch, dtype)).max
    assert room["largest"] / limit == room["share"][dtype]
    assert 900 < room["largest"] < 5000
    assert room["largest"] / 65504 == room["share"]["float16"]


def test_compressed_tensors_are_read(release, tmp_path, record_property):
    """int8 with a scale for each channel, as compressed-tensors stores it."""
    record_property("build", "compressed-tensors int8")
    tensors = load_file(release.path / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        scale = tensors[name].abs().amax(1, keepdim=True) / 127
        tensors[name] = (tensors[name] / scale).round().to(torch.int8)
        tensors[name + "_scale"] = scale
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    release.subject.tokenizer.save_pretrained(tmp_path)
    config = json.loads((release.path / "config.json").read_text())
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_measurable(load(resolve(str(tmp_path)), device="cpu"), release, within=1 / 127)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_gguf_types_are_read(kind, release, tmp_path, record_property):
    """The dequantised scalar is within its block's step of what was packed."""
    record_property("build", f"GGUF {kind}")
    write_gguf(tmp_path / "model.gguf", release.subject.model, gguf.GGMLQuantizationType[kind])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    )
    subject = replace(release.subject, model=model.eval(), architecture=inspect_architecture(model))
    assert_measurable(
        subject, release, within={"F16": 2**-11, "BF16": 2**-8, "Q8_0": 1 / 127}.get(kind, 1 / 8)
    )


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path, model, kind):
    """Write a Llama as llama.cpp would, its output projections packed as ``kind``."""
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    for name, tensor in model.state_dict().items():
        stem, array = name.removesuffix(".weight"), tensor.numpy()
        if stem in GGUF_NAMES:
            writer.add_tensor(f"{GGUF_NAMES[stem]}.weight", array)
            continue
        _, _, layer, part = stem.split(".", 3)
        target = f"blk.{layer}.{GGUF_NAMES[part]}.weight"
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            # llama.cpp interleaves the two halves of each rotary head.
            heads = config.num_attention_heads
            halves = array.reshape(heads, 2, array.shape[0] // heads // 2, array.shape[1])
            array = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))
        if part == "mlp.down_proj":
            writer.add_tensor(target, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(target, array)
    finish_gguf(writer)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_an_offloaded_build_is_edited_through_its_output(where, release, tmp_path, record_property):
    """A write to what accelerate offloaded is lost without a word; the hook's edit is proven."""
    record_property("build", f"accelerate, offloaded to {where}")
    subject = release.reopened(dtype=torch.float32)
    if where == "cpu":
        accelerate.cpu_offload(subject.model, execution_device=torch.device("cpu"))
    else:
        accelerate.disk_offload(subject.model, tmp_path, execution_device=torch.device("cpu"))
    projection = subject.architecture.projection(release.place)
    assert not projection.writable
    assert_measurable(subject, release, within=1e-6)


def test_a_row_of_an_offloaded_matrix_costs_one_probe_and_shows_edits(release, tmp_path):
    """What accelerate brings is read at once; under an edit every column is probed, so it shows."""
    subject, place = release.reopened(dtype=torch.float32), release.place
    whole = subject.architecture.projection(place).row(place.row).clone()
    accelerate.disk_offload(subject.model, tmp_path, execution_device=torch.device("cpu"))
    projection = subject.architecture.projection(place)
    probed = []
    probe = type(projection).probe
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(projection), "probe", lambda self, cols: probed.append(cols) or probe(self, cols))
        assert torch.equal(whole, projection.row(place.row))
    assert 1 == sum(len(cols) for cols in probed)
    with edited(subject, [Scale(place, 0.5)]):
        halved = projection.row(place.row)
    assert 0.5 * whole[place.col] == pytest.approx(float(halved[place.col]), rel=1e-5)


def test_a_device_map_with_disk_is_edited_through_its_output(release, tmp_path, record_property):
    """Loaded by transformers itself with half of the blocks on disk, as device_map="auto" would leave it."""
    record_property("build", "device_map, half of the blocks on disk")
    device_map = {
        "model.embed_tokens": "cpu",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    device_map |= {f"model.layers.{layer}": "cpu" if layer == 0 else "disk" for layer in range(4)}
    subject = release.reopened(device_map=device_map, offload_folder=tmp_path, dtype=torch.float32)
    assert not subject.architecture.projection(release.place).writable
    assert_measurable(subject, release, within=1e-6)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_experts_are_edited_where_they_compute(where, planted, tmp_path, record_property):
    """The 3-D parameter comes and goes with each pass; the expert's product is corrected instead."""
    record_property("build", f"experts, offloaded to {where}")
    from .families import FAMILIES

    subject = FAMILIES["Qwen3-MoE"].build(planted)
    with planted_in(subject) as place:
        value = subject.architecture.value(place)
        if where == "cpu":
            accelerate.cpu_offload(subject.model, execution_device=torch.device("cpu"))
        else:
            accelerate.disk_offload(subject.model, tmp_path, execution_device=torch.device("cpu"))
        assert not subject.architecture.projection(place).writable
        assert value == subject.architecture.value(place)
        assert (place,) == scan(subject, TEXT).coordinates
        with edited(subject, [Scale(place, 0.5)]):
            assert 0.5 * value == pytest.approx(subject.architecture.value(place), rel=1e-5)
        assert value == subject.architecture.value(place)
        accelerate.hooks.remove_hook_from_submodules(subject.model)
        # Planting is undone by writing, for which the weights must be back.
        subject = FAMILIES["Qwen3-MoE"].build(planted)


def test_sharded_and_tied_weights_are_read(planted, tmp_path, record_property):
    """Several files with an index, and a head that is the embedding."""
    record_property("build", "sharded safetensors, tied embeddings")
    subject = Tiny(GATED, "LlamaConfig", {**SHAPE, "tie_word_embeddings": True}).build(planted)
    with planted_in(subject) as place:
        subject.model.save_pretrained(tmp_path, max_shard_size="200KB")
        planted.tokenizer.save_pretrained(tmp_path)
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
        again = load(resolve(str(tmp_path)), device="cpu")
        assert_measurable(
            again, Release(tmp_path, subject, place, subject.architecture.value(place)), within=1e-12
        )
    assert again.model.get_input_embeddings().weight is again.model.get_output_embeddings().weight


TOWER = {
    "num_hidden_layers": 4,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
}
VISION = {**TOWER, "image_size": 28, "patch_size": 14}
LANGUAGE = {**TOWER, "vocab_size": 300, "num_key_value_heads": 2}


@pytest.mark.parametrize("name", ["LLaVA", "Gemma 3"])
def test_a_decoder_inside_a_vision_language_model_is_found(name, planted, tmp_path, record_property):
    """The vision tower is as deep and as wide as the decoder; the decoder's blocks are the ones taken."""
    record_property("family", f"{name} (vision-language)")
    torch.manual_seed(5)
    if name == "LLaVA":
        config = transformers.LlavaConfig(
            vision_config=transformers.CLIPVisionConfig(**VISION),
            text_config=transformers.LlamaConfig(**LANGUAGE),
            image_token_index=299,
        )
        model = transformers.LlavaForConditionalGeneration(config)
    else:
        config = transformers.Gemma3Config(
            vision_config=transformers.SiglipVisionConfig(**VISION),
            text_config=transformers.Gemma3TextConfig(**LANGUAGE),
            mm_tokens_per_image=4,
            image_token_index=299,
        )
        model = transformers.Gemma3ForConditionalGeneration(config)
    record_property("architecture", type(model).__name__)
    model.save_pretrained(tmp_path)
    planted.tokenizer.save_pretrained(tmp_path)
    subject = load(resolve(str(tmp_path)), device="cpu")
    language = subject.model.get_decoder()
    assert list(language.layers) == list(subject.architecture.blocks)
    assert () == scan(subject, TEXT).coordinates
    with planted_in(subject) as place:
        found = scan(subject, TEXT)
    assert ((place,), SUPPRESSED) == (found.coordinates, found.stop_reason)


def test_a_checkpoint_that_is_no_causal_model_is_refused_when_loaded(planted, tmp_path):
    """One line names the config's class and what was looked for; no traceback of transformers."""
    config = transformers.T5Config(vocab_size=257, d_model=32, d_ff=48, num_layers=2, num_heads=4)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    planted.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UnknownArchitecture, match="T5Config describes no causal language model") as caught:
        load(resolve(str(tmp_path)), device="cpu")
    assert 1 == len(str(caught.value).splitlines())


@pytest.mark.filterwarnings("ignore")
def test_controls_reach_the_weights_of_a_quantised_build(release):
    """The largest others of a packed matrix are those of the matrix its kernel computes with."""
    from superweight.measurement.controls import largest_of_matrix

    subject = release.reopened(**QUANTISED["torchao int8 weight-only"][0]())
    projection = subject.architecture.projection(release.place)
    chosen = largest_of_matrix(projection, [release.place], 3)
    matrix = projection.matrix().abs()
    matrix[release.place.row, release.place.col] = 0
    assert float(matrix.max()) == pytest.approx(abs(projection.value(chosen[0].row, chosen[0].col)))
