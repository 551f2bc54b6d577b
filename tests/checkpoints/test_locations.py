"""From a coordinate to a tensor, in every family's way of naming and storing its projections."""

import json

import numpy as np
import pytest

from superweight.checkpoints.tensors.locations import locate, locations
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.core.coordinates import Coordinate

HIDDEN, INTERMEDIATE = 4, 6
# What stands at (row, col) says where it stands.
MATRIX = np.arange(HIDDEN * INTERMEDIATE, dtype=np.float32).reshape(HIDDEN, INTERMEDIATE)


@pytest.fixture
def opened(tmp_path, write_safetensors):
    """Open a checkpoint of given tensors, and a config where there is one."""

    def make(tensors, config=None):
        write_safetensors(tmp_path / "model.safetensors", tensors)
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        return open_checkpoint(tmp_path)

    return make


def value(checkpoint, *indices):
    coordinate = Coordinate.of(*indices)
    (location,) = locate(checkpoint, coordinate)
    return location.scalar(checkpoint, coordinate.row, coordinate.col).value


@pytest.mark.parametrize(
    "pattern",
    [
        "model.layers.{}.mlp.down_proj.weight",
        "layers.{}.mlp.down_proj.weight",
        "model.language_model.layers.{}.mlp.down_proj.weight",
        "language_model.model.layers.{}.mlp.down_proj.weight",
        "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight",
        "transformer.h.{}.mlp.dense_4h_to_h.weight",
        "h.{}.mlp.dense_4h_to_h.weight",
        "transformer.encoder.layers.{}.mlp.dense_4h_to_h.weight",
        "model.decoder.layers.{}.fc2.weight",
        "decoder.layers.{}.fc2.weight",
        "model.layers.{}.mlp.fc2.weight",
        "model.layers.{}.feed_forward.w2.weight",
        "transformer.h.{}.mlp.fc_out.weight",
        "transformer.blocks.{}.ffn.down_proj.weight",
        "model.transformer.blocks.{}.ff_out.weight",
    ],
)
def test_finds_the_projection_of_every_family(opened, pattern):
    """A linear map is stored as the paper writes it, whatever it is called and whatever stands before it."""
    checkpoint = opened({pattern.format(layer): MATRIX + 100 * layer for layer in (0, 1, 10)})
    assert 1000 + MATRIX[3, 5] == value(checkpoint, 10, 3, 5)
    assert [0, 1, 10] == [location.layer for location in locations(checkpoint)]
    (location,) = locate(checkpoint, Coordinate(1, 2, 4))
    assert (100 + MATRIX[2]).tolist() == location.row(checkpoint, 2).tolist()
    assert (100 + MATRIX).tolist() == location.matrix(checkpoint).tolist()


C_PROJ = "transformer.h.1.mlp.c_proj"


@pytest.mark.parametrize(
    ("stored", "config", "bias"),
    [
        (MATRIX.T, {"model_type": "gpt2"}, None),
        (MATRIX.T, {"n_embd": HIDDEN}, None),
        (MATRIX.T, {}, HIDDEN),
        (MATRIX, {"model_type": "starcoder2", "hidden_size": HIDDEN}, None),
        (MATRIX, {"text_config": {"hidden_size": HIDDEN}, "hidden_size": INTERMEDIATE}, None),
        (MATRIX, None, HIDDEN),
        (MATRIX, {"model_type": ["gpt2"], "hidden_size": "4"}, HIDDEN),
    ],
    ids=["gpt2", "by size", "by bias", "starcoder2", "text config", "no config", "odd config"],
)
def test_tells_which_way_round_a_c_proj_is_stored(opened, stored, config, bias):
    """GPT-2 stores (intermediate, hidden), StarCoder2 does not; rows are the paper's in both."""
    tensors = {f"{C_PROJ}.weight": np.ascontiguousarray(stored)}
    if bias is not None:
        tensors[f"{C_PROJ}.bias"] = np.zeros(bias, np.float32)
    # The attention has a c_proj of its own.
    tensors["transformer.h.1.attn.c_proj.weight"] = np.zeros((HIDDEN, HIDDEN), np.float32)
    checkpoint = opened(tensors, config)
    assert MATRIX[3, 5] == value(checkpoint, 1, 3, 5)
    (location,) = locate(checkpoint, Coordinate(1, 2, 4))
    assert (HIDDEN, INTERMEDIATE) == location.shape
    assert MATRIX[2].tolist() == location.row(checkpoint, 2).tolist()
    assert MATRIX.tolist() == location.matrix(checkpoint).tolist()


def test_refuses_a_c_proj_that_could_lie_either_way(opened, refusal):
    """Without config and bias nothing tells."""
    checkpoint = opened({f"{C_PROJ}.weight": MATRIX})
    assert "cannot be told; put its config.json beside it" in refusal(locate, checkpoint, Coordinate(1, 0, 0))


@pytest.mark.parametrize(
    ("routed", "shared"),
    [
        ("mlp.experts.{}.down_proj.weight", "mlp.shared_experts.down_proj.weight"),
        ("mlp.experts.{}.down_proj.weight", "mlp.shared_expert.down_proj.weight"),
        ("block_sparse_moe.experts.{}.w2.weight", "shared_mlp.output_linear.weight"),
    ],
)
def test_finds_routed_and_shared_experts(opened, routed, shared):
    """A routed expert goes by its number, a shared one by none."""
    block = "model.layers.2."
    tensors = {block + routed.format(expert): MATRIX + 100 * expert for expert in range(12)}
    checkpoint = opened(tensors | {block + shared: MATRIX + 5000})
    assert 1100 + MATRIX[3, 5] == value(checkpoint, 2, 11, 3, 5)
    assert 5000 + MATRIX[3, 5] == value(checkpoint, 2, 3, 5)
    assert [None, *range(12)] == [location.expert for location in locations(checkpoint)]


@pytest.mark.parametrize(
    ("config", "transposed"),
    [
        ({"model_type": "qwen3_moe", "hidden_size": HIDDEN}, False),
        ({"model_type": "llama4", "text_config": {"hidden_size": HIDDEN}}, True),
        ({"model_type": "gpt_oss", "hidden_size": HIDDEN}, True),
        ({"text_config": {"hidden_size": HIDDEN}}, True),
    ],
)
def test_finds_experts_that_are_stored_as_one(opened, config, transposed):
    """(experts, hidden, intermediate), or the other way round where the family does so."""
    experts = np.stack([MATRIX, MATRIX + 100, MATRIX + 200])
    stored = np.ascontiguousarray(experts.transpose(0, 2, 1)) if transposed else experts
    checkpoint = opened({"model.layers.0.mlp.experts.down_proj": stored}, config)
    assert 200 + MATRIX[3, 5] == value(checkpoint, 0, 2, 3, 5)
    (location,) = locate(checkpoint, Coordinate(0, 2, 4, 1))
    assert (100 + MATRIX[2]).tolist() == location.row(checkpoint, 2).tolist()
    assert (100 + MATRIX).tolist() == location.matrix(checkpoint).tolist()
    assert [0, 1, 2] == [location.expert for location in locations(checkpoint)]


@pytest.mark.parametrize(
    "tower",
    [
        "vision_tower.vision_model.encoder.layers.0.mlp.fc2.weight",
        "model.visual.blocks.0.mlp.down_proj.weight",
        "audio_tower.layers.0.fc2.weight",
        "vision_model.transformer.layers.0.mlp.fc2.weight",
        "model.encoder.layers.0.fc2.weight",
        "mtp.layers.0.mlp.down_proj.weight",
    ],
)
def test_a_tower_is_not_taken_for_the_decoder(opened, refusal, tower):
    """What sees or hears beside the decoder has layers of its own, which no coordinate means."""
    checkpoint = opened({tower: MATRIX + 100, "language_model.model.layers.0.mlp.down_proj.weight": MATRIX})
    assert MATRIX[3, 5] == value(checkpoint, 0, 3, 5)
    assert 1 == len(locations(checkpoint))


def test_refuses_two_decoders(opened, refusal):
    """Where names leave two choices, both are named."""
    names = ("first.layers.0.mlp.down_proj.weight", "second.layers.0.mlp.down_proj.weight")
    message = refusal(locate, opened(dict.fromkeys(names, MATRIX)), Coordinate(0, 0, 0))
    assert all(name in message for name in names)


def test_refuses_a_model_of_another_kind(opened, refusal):
    """Where nothing is recognised the line says what was looked for."""
    message = refusal(locate, opened({"embed.weight": MATRIX}), Coordinate(0, 0, 0))
    assert "holds no MLP output projection of a decoder: none of its 1 tensors" in message


@pytest.mark.parametrize(
    ("indices", "fault"),
    [
        ((2, 0, 0), "names block 2, but"),
        ((0, HIDDEN, 0), "lies outside the (4, 6) output projection of block 0"),
        ((0, 0, INTERMEDIATE), "lies outside the (4, 6) output projection of block 0"),
        ((0, 0, 0, 0), "names an expert, but block 0 is dense"),
        ((1, 0, 0), "names no expert, but block 1 is a mixture of experts"),
        ((1, 2, 0, 0), "names expert 2, but block 1 has experts 0 to 1"),
    ],
)
def test_refuses_coordinates_that_are_not_there(opened, refusal, indices, fault):
    """The block, expert, row or column that is missing is named with those there are."""
    experts = {f"layers.1.mlp.experts.{expert}.down_proj.weight": MATRIX for expert in range(2)}
    checkpoint = opened({"layers.0.mlp.down_proj.weight": MATRIX, **experts})
    assert fault in refusal(locate, checkpoint, Coordinate.of(*indices))


def test_refuses_an_expert_beyond_those_stored_as_one(opened, refusal):
    """A fused tensor says how many experts it holds."""
    checkpoint = opened({"layers.0.mlp.experts.down_proj": np.stack([MATRIX] * 3)}, {"hidden_size": HIDDEN})
    assert "has experts 0 to 2" in refusal(locate, checkpoint, Coordinate(0, 0, 0, 3))


def test_refuses_a_projection_of_another_rank(opened, refusal):
    """A vector under a projection's name is no projection."""
    checkpoint = opened({"layers.0.mlp.down_proj.weight": MATRIX[0].copy()})
    assert "is no output projection" in refusal(locate, checkpoint, Coordinate(0, 0, 0))
