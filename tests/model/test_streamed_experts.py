"""Of routed experts, a model that is run block by block brings those that the router chose."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma4TextConfig,
    GptOssConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from superweight.checkpoints.registry import resolve
from superweight.detection.run_trace import trace
from superweight.detection.scan import scan
from superweight.model.gguf_config import gguf_config
from superweight.model.loading import load
from superweight.model.streamed_model import streamed
from tests.helpers.planted_gguf import write_mixture_gguf
from tests.model.families import planted_in
from tests.model.test_streamed_model import TEXT, compared, saved
from tools.decoder_sweep import CAUSAL, build, jobs

BLOCKS, EXPERTS = 2, 16
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "num_experts_per_tok": 2,
}


@pytest.fixture
def random_model():
    """Make a small random model of a config."""

    def make(config):
        torch.manual_seed(5)
        return AutoModelForCausalLM.from_config(config).eval()

    return make


def only_chosen_experts_are_brought(entry, *stacked):
    """Scan one token, and hold what is read to what lies beside the experts and those that it goes to.

    ``stacked`` is how the names of the experts' tensors end.
    """
    with streamed(entry, ahead=False) as opened:
        assert [EXPERTS] * BLOCKS == [unit.experts for unit in opened.stream.blocks]
        headers = opened.checkpoint.folder.brought
        seen = trace(opened.subject, "a")
        brought = opened.checkpoint.folder.brought - headers
        chosen = sum(len({write.expert for write in writes}) for writes in seen.writes)
        sizes = {name: info.end - info.start for name, info in opened.checkpoint.tensors().items()}
    experts = sum(size for name, size in sizes.items() if name.endswith(stacked))
    of_chosen = experts * chosen / (BLOCKS * EXPERTS)
    beside = sum(sizes.values()) - experts
    assert of_chosen < brought < of_chosen + beside
    assert 0 < of_chosen <= experts / 4


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_experts_stacked_in_a_gguf_file_are_brought_one_by_one(kind, tmp_path, random_model):
    """The trace is the loaded model's, and of the experts that nothing went to next to nothing is read."""
    config = Qwen3MoeConfig(
        vocab_size=258, num_experts=EXPERTS, moe_intermediate_size=96, norm_topk_prob=True, **SIZES
    )
    model = random_model(config)
    entry = resolve(str(write_mixture_gguf(tmp_path / "m.gguf", model, "qwen3moe", kind)))
    compared(entry)
    only_chosen_experts_are_brought(entry, "_exps.weight")
    if kind == "F32":  # the numbers are those of the model that was written
        ids = torch.tensor([load(entry, device="cpu").encode(TEXT)])
        read = load(entry, device="cpu").model.model(input_ids=ids, use_cache=False).last_hidden_state
        assert torch.allclose(model.model(input_ids=ids, use_cache=False).last_hidden_state, read, atol=1e-5)


@pytest.mark.parametrize(
    ("made_by", "architecture", "sizes"),
    [
        (Qwen3MoeConfig, "qwen3moe", {"moe_intermediate_size": 160}),
        (Qwen2MoeConfig, "qwen2moe", {"moe_intermediate_size": 160, "shared_expert_intermediate_size": 224}),
    ],
)
def test_experts_of_any_size_are_read_from_a_gguf_file(made_by, architecture, sizes, tmp_path, random_model):
    """transformers takes its default size for them, and the file would look damaged."""
    model = random_model(made_by(vocab_size=258, num_experts=4, **sizes, **SIZES))
    path = write_mixture_gguf(tmp_path / "m.gguf", model, architecture)
    read = AutoConfig.from_pretrained(tmp_path, gguf_file=path.name)
    assert all(size != getattr(read, name) for name, size in sizes.items())
    subject = load(resolve(str(path)), device="cpu")
    assert all(size == getattr(subject.model.config, name) for name, size in sizes.items())
    for name, numbers in model.state_dict().items():
        assert torch.equal(numbers, subject.model.state_dict()[name]), name


def test_what_transformers_reads_of_a_gguf_file_is_left_as_it_reads_it(monkeypatch):
    """Gemma 4's length of a key is that of its global blocks, and no other one's."""
    read = Gemma4TextConfig(head_dim=16, global_head_dim=32)
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *_, **__: read)
    metadata = {"general.architecture": "gemma4", "gemma4.attention.key_length": 32}
    before = read.to_dict()
    assert before == gguf_config("folder", "m.gguf", metadata).to_dict()


def test_packed_experts_in_one_tensor_are_brought_one_by_one(tmp_path, random_model):
    """As gpt-oss stores them: outputs first in the file, inputs first in the model."""
    config = GptOssConfig(
        vocab_size=257, num_local_experts=EXPERTS, layer_types=["full_attention"] * BLOCKS, **SIZES
    )
    entry = saved(random_model(config), tmp_path)
    pack_experts(tmp_path)
    compared(entry)
    only_chosen_experts_are_brought(entry, "_proj_blocks", "_proj_scales")


@pytest.mark.parametrize("model_type", ["llama4_text", "longcat_flash", "jetmoe"])
def test_experts_of_other_modules_are_brought_one_by_one(model_type, tmp_path):
    """Of one that is given a copy of the tokens for each expert, names some twice, or routes by itself."""
    entry = saved(build(jobs(CAUSAL)[model_type]), tmp_path)
    with streamed(entry, ahead=False) as opened:
        seen = trace(opened.subject, "a")
        # The last block's are in memory yet; what no token went to is zero there still.
        experts = opened.subject.architecture.layout[-1].experts
        assert experts.count == opened.stream.blocks[-1].experts
        stack = experts.stack().flatten(1)
        there = {expert for expert in range(experts.count) if bool(stack[expert].any())}
        assert {write.expert for write in seen.writes[-1]} - {None} == there
        assert len(there) < experts.count


def pack_experts(folder):
    """Store the experts of a folder in blocks of 32 4-bit floats that share a power of two."""
    source = torch.Generator().manual_seed(7)
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = tensor.shape
            blocks = torch.randint(256, (experts, outputs, inputs // 32, 16), generator=source)
            powers = torch.randint(118, 122, blocks.shape[:3], generator=source)
            tensors |= {f"{name}_blocks": blocks.to(torch.uint8), f"{name}_scales": powers.to(torch.uint8)}
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(config))


def test_only_the_experts_that_the_router_chose_are_brought(tmp_path):
    """Of the others not a byte."""
    entry = saved(build(jobs(CAUSAL)["mixtral"]), tmp_path)
    with streamed(entry, ahead=False) as opened:
        one = trace(opened.subject, "a")
        few = opened.checkpoint.folder.brought
        chosen = sum(len({write.expert for write in writes}) for writes in one.writes)
        stacks = opened.stream.blocks[0]
        trace(opened.subject, "A whole sentence, of which the tokens go to more of the experts.")
        assert opened.checkpoint.folder.brought - few > few * 0.9
    assert chosen < stacks.experts * len(one.writes)


def test_a_planted_expert_is_found_and_confirmed_by_a_second_pass(tmp_path):
    """No pruned copy runs beside routed experts: the blocks are brought again, and the prune is proven."""
    subject = load(saved(build(jobs(CAUSAL)["mixtral"]), tmp_path / "plain"), device="cpu")
    with planted_in(subject) as place:
        wanted = scan(subject, TEXT)
        entry = saved(subject.model, tmp_path / "planted")
    with streamed(entry) as opened:
        found = scan(opened.subject, TEXT)
        assert opened.stream.entered.count(place.layer) == found.passes == wanted.passes > 1
    assert (place,) == found.coordinates == wanted.coordinates
    assert found.super_weights == wanted.super_weights
    assert found.stop_reason == wanted.stop_reason
