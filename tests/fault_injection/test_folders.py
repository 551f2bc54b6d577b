"""A folder with more, or less, in it than one model is judged in one way, and says which."""

from __future__ import annotations

import json
import re
import runpy
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from superweight.checkpoints.cache import sha256
from superweight.checkpoints.registry import resolve
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.core.run_notes import noted
from superweight.model.loading import load
from tests.helpers.checkpoint_files import copy_checkpoint, rewrite

DOWN_PROJ = "model.layers.1.mlp.down_proj.weight"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")

ADAPTER = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 4})


@pytest.fixture
def copy(tmp_path):
    copy_checkpoint("tiny-planted", tmp_path / "copy")
    return tmp_path / "copy"


def loaded(path, **options):
    """A model and the warnings of its loading."""
    with noted() as notes:
        subject = load(resolve(str(path)), device="cpu", **options)
    return subject, notes


def weight(subject):
    return subject.model.get_parameter(DOWN_PROJ)


def add_shards(path, scale=1.0):
    """Write the weights of a folder, times something, into two shards with an index."""
    tensors = {name: tensor * scale for name, tensor in load_file(path / "model.safetensors").items()}
    names = sorted(tensors)
    parts = names[::2], names[1::2]
    for shard, part in zip(SHARDS, parts, strict=True):
        save_file({name: tensors[name].contiguous() for name in part}, path / shard, {"format": "pt"})
    files = {name: shard for shard, part in zip(SHARDS, parts, strict=True) for name in part}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def test_a_sound_folder_has_nothing_to_say(copy):
    """The twin of all that follows."""
    assert [] == loaded(copy)[1]


def test_of_two_sets_of_weights_the_single_file_is_judged_and_the_other_named(copy):
    """As transformers loads it, and as the files are read without loading; the digest is of that file."""
    before = weight(loaded(copy)[0]).clone()
    add_shards(copy, scale=2.0)
    subject, (note,) = loaded(copy)
    assert torch.equal(before, weight(subject))
    assert sha256(copy / "model.safetensors") == subject.provenance.weights_sha256
    assert f"another set of weights ({SHARDS[0]}); model.safetensors was judged" in note
    row = torch.from_numpy(open_checkpoint(copy).read(DOWN_PROJ))
    assert torch.equal(before, row)


def test_a_stale_index_beside_a_sound_file_is_passed_over_and_told(copy):
    """transformers loads the single file; so does everything here."""
    add_shards(copy)
    for shard in SHARDS:
        (copy / shard).unlink()
    _, (note,) = loaded(copy)
    assert "which names 2 files that are not there; model.safetensors was judged" in note
    (copy / "model.safetensors.index.json").write_text("no index")
    assert [] == loaded(copy)[1]


def test_shards_with_their_index_are_the_model(copy):
    """The twin of shards without."""
    before = weight(loaded(copy)[0]).clone()
    add_shards(copy)
    (copy / "model.safetensors").unlink()
    subject, notes = loaded(copy)
    assert torch.equal(before, weight(subject))
    assert [] == notes


def test_shards_without_their_index_are_the_model(copy):
    """Their numbers say that all are there, and each says what it holds; read, scanned and loaded alike."""
    before = weight(loaded(copy)[0]).clone()
    add_shards(copy)
    for name in ("model.safetensors", "model.safetensors.index.json"):
        (copy / name).unlink()
    subject, notes = loaded(copy)
    assert torch.equal(before, weight(subject))
    assert [] == notes
    assert torch.equal(before, torch.from_numpy(open_checkpoint(copy).read(DOWN_PROJ)))
    assert sorted(file.name for file in copy.glob("model*")) == sorted(SHARDS)


def test_one_shard_of_two_without_their_index_is_refused(copy, refusal):
    """What it lacks is named, whether the first is gone or the last."""
    add_shards(copy)
    for name in ("model.safetensors", "model.safetensors.index.json", SHARDS[1]):
        (copy / name).unlink()
    line = refusal(load, resolve(str(copy)), device="cpu")
    assert f"holds {SHARDS[0]} and no model.safetensors.index.json" in line


def test_shards_that_both_hold_a_tensor_are_refused(copy, refusal):
    """Without an index nobody knows which of the two is meant."""
    add_shards(copy)
    for name in ("model.safetensors", "model.safetensors.index.json"):
        (copy / name).unlink()
    shutil.copy(copy / SHARDS[0], copy / SHARDS[1])
    assert f"is in {SHARDS[0]} and in {SHARDS[1]}" in refusal(open_checkpoint, copy)


def test_mistrals_second_set_is_named(copy):
    """Its releases hold consolidated.safetensors beside what transformers loads."""
    shutil.copy(copy / "model.safetensors", copy / "consolidated.safetensors")
    subject, (note,) = loaded(copy)
    assert "another set of weights (consolidated.safetensors), which was not judged" in note
    assert sha256(copy / "model.safetensors") == subject.provenance.weights_sha256


@pytest.fixture
def peft(monkeypatch):
    """Let transformers believe that peft is installed."""
    for module in (transformers.models.auto.auto_factory, transformers.integrations.peft):
        monkeypatch.setattr(module, "is_peft_available", lambda: True)


def test_an_adapter_beside_a_model_is_left_out_whether_or_not_peft_is_there(copy, peft):
    """transformers never meets it, so that a folder is one model on every machine."""
    before = weight(loaded(copy)[0]).clone()
    (copy / "adapter_config.json").write_text(ADAPTER)
    subject, (note,) = loaded(copy)
    assert torch.equal(before, weight(subject))
    assert f"{copy} holds an adapter (adapter_config.json) beside a whole model" in note
    assert note.endswith("the model was judged without it")


def test_transformers_would_have_taken_the_adapter(copy, peft):
    """What the test before this one guards against happens where the adapter is left in its place."""
    (copy / "adapter_config.json").write_text(ADAPTER)
    # It goes for the adapter, and finds here that peft is not really installed, or no weights of it.
    with pytest.raises((ImportError, OSError, ValueError), match=r"(?i)peft|adapter"):
        transformers.AutoModelForCausalLM.from_pretrained(copy, local_files_only=True)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"base_model.model.{name}",
        lambda name: f"student.decoder.{name}",
        lambda name: re.sub(r"(layers\.\d+\.)", r"\1_orig_mod.", name),
        lambda name: re.sub(r"(layers\.\d+\.)", r"\1_checkpoint_wrapped_module.", name),
    ],
    ids=["compiled", "parallel", "peft", "unknown", "compiled by block", "checkpointed by block"],
)
def test_a_wrappers_prefix_is_named_and_the_line_that_is_given_takes_it_off(
    copy, refusal, wrap, tmp_path, monkeypatch
):
    """The line in the refusal is run as it stands, and the model loads."""
    before = weight(loaded(copy)[0]).clone()
    rewrite(copy, lambda tensors: {wrap(name): tensor for name, tensor in tensors.items()})
    line = refusal(load, resolve(str(copy)), device="cpu")
    assert "hold the prefix '" in line
    program = re.search(r'python -c "(.+)"$', line)[1]
    (tmp_path / "line.py").write_text(program)
    monkeypatch.chdir(copy)
    runpy.run_path(str(tmp_path / "line.py"))
    assert torch.equal(before, weight(loaded(copy)[0]))


def test_an_adapter_that_was_not_merged_is_named(copy, refusal):
    """No prefix alone stands between it and a model."""

    def unmerged(tensors):
        return {
            f"base_model.model.{name}".replace("down_proj.weight", "down_proj.base_layer.weight"): tensor
            for name, tensor in tensors.items()
        }

    rewrite(copy, unmerged)
    assert "belongs to an adapter that was not merged" in refusal(load, resolve(str(copy)), device="cpu")


@pytest.mark.parametrize(("method", "name"), [("exl2", "an EXL2 model"), ("exl3", "an EXL3 model")])
def test_a_quantisation_of_another_library_is_named(copy, refusal, method, name):
    """transformers would speak of shapes, or of a method that it does not know."""
    config = json.loads((copy / "config.json").read_text())
    settings = {"quantization_config": {"quant_method": method, "bits": 4}}
    (copy / "config.json").write_text(json.dumps({**config, **settings}))
    line = refusal(load, resolve(str(copy)), device="cpu")
    assert f"{copy} is {name}, which transformers does not compute with; give the" in line
