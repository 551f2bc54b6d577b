"""What is the same is the same: spelling, buffers, ties, stacks and padding are no damage; gaps are."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from superweight.checkpoints.registry import resolve
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.core.coordinates import Coordinate
from superweight.release.limits import Limits
from superweight.release.matrix_checks import compare_matrices
from superweight.release.static_checks import compare_static
from superweight.release.tensor_names import by_meaning, canonical, paired, recomputed, tied

from .releases import make, unchanged

PLACE = Coordinate(1, 41, 23)
GATE = "model.layers.2.mlp.gate_proj.weight"


@pytest.fixture(scope="module")
def base():
    entry = resolve("tiny-planted")
    return entry.root / entry.source


def renamed(before, after):
    def change(tensors, places):
        for name in [name for name in tensors if name.startswith(before)]:
            tensors[after + name.removeprefix(before)] = tensors.pop(name)

    return change


def with_buffers(tensors, places):
    for layer in range(4):
        tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)


def with_new_rows(tensors, places):
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], torch.zeros(7, 64, dtype=tensors[name].dtype)])


def in_int8(tensors, places):
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        scale = tensors[name].float().abs().amax(1, keepdim=True) / 127
        tensors[name + "_zero_point"] = torch.zeros(len(scale), 1)
        tensors[name] = (tensors[name].float() / scale).round().to(torch.int8)
        tensors[name + "_scale"] = scale


def checked(base, release):
    checks = compare_static(open_checkpoint(base), open_checkpoint(release), [PLACE], Limits())
    return {check.name: check for check in checks}


@pytest.mark.parametrize(
    "change",
    [
        renamed("model.", "model.language_model."),
        renamed("model.", "language_model.model."),
        renamed("model.", "model.model."),
        renamed("model.", ""),
        with_buffers,
        with_new_rows,
        in_int8,
    ],
)
def test_the_same_weights_are_kept(change, base, tmp_path):
    """Other wrappers, buffers, new rows and zero points leave every static check kept."""
    found = checked(base, make(base, tmp_path / "release", change, []))
    assert {"kept"} == {check.status for check in found.values()}
    told = "7 new rows" in found["structure"].reason
    assert (change is with_new_rows) == told


def without(name):
    def change(tensors, places):
        in_int8(tensors, places)
        del tensors[name], tensors[name + "_scale"], tensors[name + "_zero_point"]

    return change


def test_a_matrix_that_a_quantised_release_lacks_is_missed(base, tmp_path):
    """Names that do not end in .weight hide no gap."""
    release = make(base, tmp_path / "release", without("model.layers.2.self_attn.q_proj.weight"), [])
    assert (
        "1 tensors are missing: model.layers.2.self_attn.q_proj.weight"
        == checked(base, release)["structure"].reason
    )


def row_emptied(tensors, places):
    tensors[GATE][5] = 0


def column_emptied(tensors, places):
    tensors[GATE][:, 7] = 0


def flipped(tensors, places):
    """Flip the top exponent bit of one number."""
    bits = tensors[GATE].view(torch.int16)
    bits[3, 4] ^= 1 << 14


@pytest.mark.parametrize(
    ("change", "check", "reason"),
    [
        (row_emptied, "rows and columns", f"emptied: row 5 of {GATE}"),
        (column_emptied, "rows and columns", f"emptied: column 7 of {GATE}"),
        (flipped, "peaks", f"{GATE} holds a number"),
    ],
)
def test_what_was_destroyed_inside_a_matrix_is_named(change, check, reason, base, tmp_path):
    """An emptied row or column, and an exponent bit, are damage that needs no forward pass."""
    found = checked(base, make(base, tmp_path / "release", change, []))[check]
    assert "damaged" == found.status
    assert found.reason.startswith(reason)


def swapped(tensors, places):
    for name in [name for name in tensors if name.startswith("model.layers.0.")]:
        twin = name.replace(".0.", ".3.")
        tensors[name], tensors[twin] = tensors[twin], tensors[name]


def shuffled(tensors, places):
    head = tensors["lm_head.weight"]
    head[:40] = head[:40].flip(0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swapped, "14 of 39 tensors hold other numbers than the base's: model.layers.0.mlp.down_proj.weight"),
        (shuffled, "1 of 39 tensors hold other numbers than the base's: 7% of the rows of lm_head.weight"),
        (in_int8, None),
        (unchanged, None),
    ],
)
def test_tensors_that_hold_other_numbers_are_told(change, words, base, tmp_path):
    """Blocks that changed places and rows that were shuffled are a change; rounding is none."""
    check = checked(base, make(base, tmp_path / "release", change, [PLACE]))["numbers of every tensor"]
    assert ("kept" if words is None else "changed") == check.status
    assert check.reason.startswith(words or "all ")


def test_a_head_that_only_the_release_stores_is_held_to_the_base_s_embedding(base, tmp_path):
    """A row of it that was emptied is seen where the base is tied."""

    def tie(tensors, places):
        tensors.pop("lm_head.weight")

    def store(tensors, places):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["lm_head.weight"][9] = 0

    for name, change in (("base", tie), ("release", store)):
        folder = make(base, tmp_path / name, change, [PLACE])
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": name == "base"}))
    check = checked(tmp_path / "base", tmp_path / "release")["rows and columns"]
    assert ("damaged", "emptied: row 9 of lm_head.weight") == (check.status, check.reason)


def test_gpt2_is_the_same_with_its_wrapper_and_its_masks_and_without(tmp_path):
    """The class's own state dict, as saved by it and as the hub has it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32, n_positions=16))
    model.save_pretrained(tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    bare |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 16, 16) for layer in range(2)}
    (tmp_path / "bare").mkdir()
    save_file(bare, tmp_path / "bare" / "model.safetensors")
    (tmp_path / "bare" / "config.json").write_text((tmp_path / "saved" / "config.json").read_text())
    sides = [open_checkpoint(tmp_path / name) for name in ("saved", "bare")]
    for one, other in (sides, reversed(sides)):
        pairing = paired(one, other)
        assert ((), ()) == (pairing.missing, pairing.reshaped)
        assert len(tensors) == len(pairing.pairs)


def test_experts_are_the_same_stacked_and_one_by_one(tmp_path):
    """Two experts of one block in either form; a stack of one lacks the other's three matrices."""
    block = "model.layers.0"
    single = {
        f"{block}.block_sparse_moe.experts.{expert}.{part}.weight": torch.ones(shape)
        for expert in range(2)
        for part, shape in (("w1", (6, 4)), ("w3", (6, 4)), ("w2", (4, 6)))
    }

    def stacked(count):
        return {
            f"{block}.mlp.experts.gate_up_proj": torch.ones(count, 12, 4),
            f"{block}.mlp.experts.down_proj": torch.ones(count, 4, 6),
        }

    for name, tensors in (("single", single), ("two", stacked(2)), ("one", stacked(1))):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    sides = {name: open_checkpoint(tmp_path / name) for name in ("single", "two", "one")}
    assert by_meaning(sides["single"]).keys() == by_meaning(sides["two"]).keys()
    assert () == paired(sides["single"], sides["two"]).missing
    assert 3 == len(paired(sides["single"], sides["one"]).missing)


def experts(folder, *, stacked, turned=False, spoil=None):
    """Two experts of one block whose numbers are all different, one by one or stacked."""
    generator = torch.Generator().manual_seed(0)
    each = [
        {part: torch.randn(shape, generator=generator) for part, shape in (("up", (6, 8)), ("down", (8, 6)))}
        for _ in range(2)
    ]
    if spoil is not None:
        spoil(each[1])
    block = "model.layers.0.mlp.experts"
    if stacked:
        downs = torch.stack([one["down"].T if turned else one["down"] for one in each])
        tensors = {f"{block}.down_proj": downs, f"{block}.up_proj": torch.stack([one["up"] for one in each])}
    else:
        tensors = {
            f"{block}.{number}.{part}_proj.weight": matrix
            for number, one in enumerate(each)
            for part, matrix in one.items()
        }
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return open_checkpoint(folder)


def row_emptied(expert):
    expert["down"][3] = 0


def grown(expert):
    expert["up"][2, 2] = 1e9


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("spoil", "reasons"),
    [
        (None, []),
        (row_emptied, ["emptied: row 3 of model.layers.0.mlp.experts.down_proj, expert 1"]),
        (grown, ["model.layers.0.mlp.experts.up_proj, expert 1 holds a number"]),
    ],
)
def test_an_expert_s_numbers_are_compared_stacked_or_alone(spoil, reasons, turned, tmp_path):
    """One row emptied, one number grown: told of that expert, whichever way its stack is turned."""
    base = experts(tmp_path / "base", stacked=False)
    release = experts(tmp_path / "release", stacked=True, turned=turned, spoil=spoil)
    checks = list(compare_matrices(base, release, paired(base, release)))
    damaged = [check.reason for check in checks if check.status == "damaged"]
    assert len(reasons) == len(damaged)
    assert all(found.startswith(wanted) for found, wanted in zip(damaged, reasons, strict=True))
    assert "of 4 tensors" in checks[0].reason or spoil is row_emptied


@pytest.mark.parametrize(
    ("expected", "config"),
    [
        (True, {"tie_word_embeddings": True}),
        (False, {"model_type": "gemma2", "tie_word_embeddings": False}),
        (True, {"model_type": "gemma2"}),
        (True, {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}),
        (True, {"model_type": "x", "text_config": {"tie_word_embeddings": True}}),
        (False, {"model_type": "llama"}),
    ],
)
def test_a_head_is_tied_by_config_by_class_or_by_the_text_config(expected, config):
    """What is stated wins; where nothing is, the class's default holds."""
    assert expected is tied(config)


def tying(tensors, places):
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()


def headless(tensors, places):
    del tensors["lm_head.weight"]


@pytest.mark.parametrize(("status", "of_base"), [("damaged", unchanged), ("kept", tying)])
def test_a_head_may_be_left_out_where_it_is_the_embedding(status, of_base, base, tmp_path):
    """A config that ties the head brings back what was left out only if it was the embedding."""
    before = make(base, tmp_path / "base", of_base, [])
    release = make(before, tmp_path / "release", headless, [])
    assert "damaged" == checked(before, release)["structure"].status
    config = json.loads((release / "config.json").read_text())
    (release / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    assert status == checked(before, release)["structure"].status


def test_a_name_that_only_looks_wrapped_is_left_alone():
    """The vision tower keeps its name."""
    assert "vision_tower.model.layers.0.weight" == canonical("model.vision_tower.model.layers.0.weight")


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("h.0.attn.bias", (1, 1, 8, 8), True),
        ("h.0.attn.masked_bias", (), True),
        ("h.0.attn.bias", (8,), False),
        ("h.0.attn.c_attn.bias", (8,), False),
        ("model.rotary_emb.inv_freq", (8,), True),
        ("model.layers.0.mlp.down_proj.weight", (8, 8), False),
    ],
)
def test_masks_and_rotary_tables_are_computed_by_the_model(name, shape, expected):
    """A mask has two dimensions and more, or none; a bias of one is a bias, whatever it is called."""
    assert expected is recomputed(name, SimpleNamespace(shape=shape))
