"""Base against release: faithful releases are kept, damaged ones are named, worst reason first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from superweight.checkpoints.model_ref import parse_model
from superweight.checkpoints.registry import resolve
from superweight.claims.run_config import RunConfig
from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput
from superweight.release.compare import CompareRequest, compare, known_super_weights
from superweight.release.result import ACTIVATIONS, QUALITY, STATIC
from tests.model.families import GATED, Tiny

from .measured_base import measured_base
from .releases import DAMAGED, KEPT, clipped, make, scaled, sharded, unchanged

PLACE = Coordinate(1, 41, 23)
NO_CHAT = "tiny-planted has no chat template: chat replies are not compared"
BASELINES = Path(__file__).parents[1] / "claims" / "baselines"


@pytest.fixture(scope="module")
def base():
    entry = resolve("tiny-planted")
    return entry.root / entry.source


def compared(release, *, base="tiny-planted", **options):
    return compare(
        CompareRequest(
            parse_model(str(base)),
            parse_model(str(release)),
            run_config=RunConfig(baselines=BASELINES),
            **options,
        ),
        held=measured_base() if base == "tiny-planted" else None,
    )


@pytest.mark.parametrize("name", list(KEPT))
def test_a_faithful_release_is_kept(name, base, tmp_path):
    """Casts, a copy and careful rounding keep what carries the model; that nobody chats with it is said."""
    result = compared(make(base, tmp_path / "release", KEPT[name], [PLACE]))
    assert ("kept", (NO_CHAT,)) == (result.verdict, result.reasons)
    assert {STATIC, ACTIVATIONS, QUALITY} == {check.depth for check in result.checks}


# The tiny model's other matrices bear four bits: the real model's do not (see below).
@pytest.mark.parametrize("name", [name for name in DAMAGED if not name.startswith("int4")])
def test_a_damaged_release_is_named(name, base, tmp_path):
    """The verdict is damaged, and where a super weight was hit its coordinate leads the reasons."""
    change, beginning = DAMAGED[name]
    release = make(base, tmp_path / "release", change, [PLACE])
    result = compared(release, depths=(STATIC, ACTIVATIONS))
    assert "damaged" == result.verdict
    if "was" in beginning or "changed" in beginning:
        assert result.reasons[0].startswith(beginning.format(place=PLACE))
    assert any(reason.startswith(beginning.format(place=PLACE)) for reason in result.reasons)


@pytest.mark.parametrize("name", ["super weight pruned", "super weight halved", "clipped at z = 9"])
def test_one_forward_pass_finds_it_alone(name, base, tmp_path):
    """Neither the files nor the predictions are needed."""
    result = compared(make(base, tmp_path / "release", DAMAGED[name][0], [PLACE]), depths=(ACTIVATIONS,))
    assert "damaged" == result.verdict
    assert {ACTIVATIONS} == {check.depth for check in result.checks}


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("super weight pruned", "damaged"),
        ("super weight sign-flipped", "damaged"),
        ("super weight halved", "changed"),
        ("clipped at z = 9", "changed"),
    ],
)
def test_the_files_alone_call_another_value_changed(name, status, base, tmp_path):
    """Zero and another sign are damage; how much another value matters, only a forward pass can say."""
    result = compared(make(base, tmp_path / "release", DAMAGED[name][0], [PLACE]), depths=(STATIC,))
    (scalar,) = [check for check in result.checks if check.name.startswith("super weight [")]
    assert status == scalar.status


def test_the_predictions_alone_find_a_pruned_super_weight(base, tmp_path):
    """Perplexity, loops and what is left to prune all say so; how far apart predictions are is told."""
    change, _ = DAMAGED["super weight pruned"]
    result = compared(make(base, tmp_path / "release", change, [PLACE]), depths=(QUALITY,))
    status = {check.name: check.status for check in result.checks}
    assert {"degraded"} == {status.pop(name) for name in ("divergence", "likeliest token")}
    said = ("perplexity", "perplexity on windows of 512 tokens", "loops", "what the super weights carry")
    assert ["damaged"] * 4 == [status[name] for name in said]


def test_identical_models_give_exactly_one_and_zero(base, tmp_path):
    """Of a copy: ratio 1 and divergence 0, to the last bit, and every position's likeliest token the same."""
    shutil.copytree(base, tmp_path / "copy")
    result = compared(tmp_path / "copy")
    figures = {check.name: check.figures for check in result.checks}
    assert (1.0, [1.0, 1.0]) == (figures["perplexity"]["ratio"], figures["perplexity"]["interval"])
    assert 0.0 == figures["divergence"]["kl"]
    assert 1.0 == figures["likeliest token"]["share"]


def test_a_tuned_release_is_kept():
    """Fine-tuning that leaves the super weight alone is no damage."""
    assert "kept" == compared("tiny-tuned").verdict


def test_base_and_release_swapped_is_no_pass(base, tmp_path):
    """A release that has what its base lacks is not the release of that base."""
    pruned = make(base, tmp_path / "pruned", DAMAGED["super weight pruned"][0], [PLACE])
    result = compared(base, base=pruned)
    assert "damaged" == result.verdict
    assert any("new: super activation on channel 41" in reason for reason in result.reasons)


def test_shards_in_order_are_kept_and_swapped_ones_are_not(base, tmp_path):
    """An index that names the wrong file is a damaged release, found without a forward pass."""
    whole = compared(sharded(base, tmp_path / "whole", swapped=False), depths=(STATIC,))
    swapped = compared(sharded(base, tmp_path / "swapped", swapped=True))
    assert ("kept", "damaged") == (whole.verdict, swapped.verdict)
    assert swapped.reasons[0].startswith("the release's files do not fit together: ")


def beside(folder, base, *, scale=1.0):
    """Write the base's tensors as shards with an index beside the single file."""
    shards = sharded(base, folder.parent / "shards", swapped=False)
    for file in shards.glob("model-*.safetensors"):
        tensors = load_file(file)
        if NORM in tensors:
            tensors[NORM] = tensors[NORM] * scale
        save_file(tensors, folder / file.name, {"format": "pt"})
    shutil.copy(shards / "model.safetensors.index.json", folder)


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("scale", "words"),
    [(1.0, "the shards beside it hold the same numbers"), (2.0, f"the shards beside it differ in {NORM}")],
)
def test_a_second_set_of_weights_is_compared_and_told(scale, words, base, tmp_path):
    """Which was judged, and whether a reader of the other set has the same model; it is no damage."""
    release = make(base, tmp_path / "release", unchanged, [PLACE])
    beside(release, base, scale=scale)
    result = compared(release, depths=(STATIC,))
    (check,) = [check for check in result.checks if check.name == "second set of weights"]
    assert "kept" == result.verdict
    assert f"model.safetensors was judged, as transformers loads it; {words}" == check.reason
    assert (check.reason in result.reasons) == (scale != 1)


def test_a_second_set_that_is_not_whole_is_none(base, tmp_path):
    """A stale index is told when the folder is opened."""
    release = make(base, tmp_path / "release", unchanged, [PLACE])
    beside(release, base)
    next(release.glob("model-*.safetensors")).unlink()
    names = {check.name for check in compared(release, depths=(STATIC,)).checks}
    assert "second set of weights" not in names


def cut_short(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])


def emptied(path):
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"].zero_()
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


def spoilt(path):
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


def lacking(path):
    tensors = load_file(path / "model.safetensors")
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


def misshapen(path):
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"] = tensors["model.layers.2.mlp.up_proj.weight"].T.contiguous()
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


def headless(path):
    tensors = load_file(path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut_short, "the release's files do not fit together"),
        (emptied, "model.layers.2.mlp.up_proj.weight is all zero"),
        (spoilt, "model.layers.2.mlp.up_proj.weight holds NaN or infinity"),
        (lacking, "1 tensors are missing: model.layers.2.mlp.up_proj.weight"),
        (headless, "1 tensors are missing: lm_head.weight"),
        (misshapen, "1 tensors changed shape: model.layers.2.mlp.up_proj.weight"),
    ],
)
def test_damaged_files_are_a_damaged_release(spoil, reason, base, tmp_path):
    """Each fault is the first reason, at full depth, without a traceback."""
    release = make(base, tmp_path / "release", unchanged, [PLACE])
    spoil(release)
    result = compared(release)
    assert "damaged" == result.verdict
    assert result.reasons[0].startswith(reason)
    assert all(1 == len(line.splitlines()) for line in result.reasons)


def test_a_base_that_is_damaged_itself_is_bad_input(base, tmp_path):
    """With NaN where the base has its super weight there is nothing to hold a release to."""
    broken = make(base, tmp_path / "base", scaled(float("nan")), [PLACE])
    with pytest.raises(BadInput, match=r"super weight \[1, 41, 23\] is nan; it is damaged"):
        compared(base, base=f"tiny-planted={broken}", depths=(STATIC,))


def test_a_packed_release_is_no_pass_by_its_files_alone(base, tmp_path):
    """Matrices in a form that cannot be read are left out, and leaving out vouches for nothing."""
    release = make(base, tmp_path / "release", unchanged, [PLACE])
    tensors = load_file(release / "model.safetensors")
    for name in [name for name in tensors if name.endswith("down_proj.weight")]:
        tensors[name.removesuffix("weight") + "qweight"] = tensors.pop(name).to(torch.int32)
    save_file(tensors, release / "model.safetensors", {"format": "pt"})
    assert "cannot be judged" == compared(release, depths=(STATIC,)).verdict


def test_a_directory_of_pictures_is_bad_input(tmp_path):
    """What is no model at all is refused, not judged."""
    (tmp_path / "cat.png").write_bytes(b"\x89PNG")
    with pytest.raises(BadInput, match=r"config\.json|safetensors"):
        compared(tmp_path)


def test_a_folder_that_is_called_as_a_repository_is_looked_at_itself(tmp_path, monkeypatch):
    """What lies there is no model, and the hub is not asked whether it has one of that name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "org" / "name" / "cat.png").write_bytes(b"\x89PNG")
    with pytest.raises(BadInput, match=r"org/name.*config\.json"):
        compared("org/name", depths=(STATIC,))


@pytest.mark.parametrize(("scale", "status"), [(1.0, "kept"), (0.0, "damaged")])
def test_every_tensor_of_a_release_is_looked_through(scale, status, base, tmp_path):
    """That all are sound is said, with how many they are; of one that was emptied, its name."""
    release = make(base, tmp_path / "release", unchanged, [PLACE])
    tensors = load_file(release / "model.safetensors")
    name = "model.layers.2.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name] * scale}, release / "model.safetensors", {"format": "pt"})
    numbers = {check.name: check for check in compared(release, depths=(STATIC,)).checks}["numbers"]
    assert status == numbers.status
    told = f"all {len(tensors)} tensors are finite and none was emptied" if scale else f"{name} is all zero"
    assert told == numbers.reason


def test_a_value_that_moved_is_told_with_its_rank_before_and_after(base, tmp_path):
    """From the largest of its matrix to the third."""
    release = make(base, tmp_path / "release", unchanged, [PLACE])
    tensors = load_file(release / "model.safetensors")
    matrix = tensors["model.layers.1.mlp.down_proj.weight"]
    matrix[7, 3], matrix[8, 4] = 3.9, 3.95
    matrix[PLACE.row, PLACE.col] = 3.75
    save_file(tensors, release / "model.safetensors", {"format": "pt"})
    reasons = " ".join(check.reason for check in compared(release, depths=(STATIC,)).checks)
    assert "from 4 to 3.75 (6.25% off), rank 1 to 3" in reasons


def test_another_normaliser_is_damage(base, tmp_path):
    """Text that is cut differently is another input: the weights being equal saves nothing."""
    release = make(base, tmp_path / "release", unchanged, [PLACE])
    document = json.loads((release / "tokenizer.json").read_text())
    document["normalizer"] = {"type": "Lowercase"}
    (release / "tokenizer.json").write_text(json.dumps(document))
    result = compared(release)
    assert "damaged" == result.verdict
    assert "its normalizer differs from the base's" in result.reasons[0]
    assert "the tokenizers cut the same text differently: predictions are not compared" in result.reasons


def test_another_architecture_is_no_pass(base, planted, tmp_path):
    """A model with other matrices has lost the super weights, whatever else it does."""
    subject = Tiny(GATED, "LlamaConfig").build(planted)
    subject.model.save_pretrained(tmp_path)
    planted.tokenizer.save_pretrained(tmp_path)
    result = compared(tmp_path)
    assert "damaged" == result.verdict
    assert result.reasons[0].startswith(
        "the output projection changed shape: block 0 from (64, 160) to (32, 48)"
    )


def test_super_weights_come_from_the_baseline_else_the_registry(tmp_path):
    """A committed baseline is what the base was found to have; the registry is what is published."""
    assert {PLACE} == known_super_weights(resolve("tiny-planted"), BASELINES)
    assert {PLACE} == known_super_weights(resolve("tiny-planted"), tmp_path)
    assert set() == known_super_weights(resolve("tiny-plain"), BASELINES)


def test_a_baseline_is_believed_before_the_registry(tmp_path):
    """Of what is published, the committed baseline may know more; one that is unreadable knows nothing."""
    shutil.copytree(BASELINES / "tiny-planted" / "cpu-float32", tmp_path / "tiny-planted" / "cpu-float32")
    (file,) = tmp_path.glob("tiny-planted/*/C1.json")
    stored = json.loads(file.read_text())
    stored["evidence"]["super_weights"].append({"at": "[2, 3, 4]", "value": "1.0", "rank": 2})
    file.write_text(json.dumps(stored))
    assert {PLACE, Coordinate(2, 3, 4)} == known_super_weights(resolve("tiny-planted"), tmp_path)
    file.write_text("no baseline")
    assert {PLACE} == known_super_weights(resolve("tiny-planted"), tmp_path)


def test_where_none_is_known_the_base_is_scanned(base, tmp_path):
    """A base that nobody described is looked at itself, also for the static depth."""
    copy = make(base, tmp_path / "nameless", unchanged, [PLACE])
    pruned = make(base, tmp_path / "release", DAMAGED["super weight pruned"][0], [PLACE])
    result = compared(pruned, base=copy, depths=(STATIC,))
    assert f"super weight {PLACE} was pruned: from 4 to 0" == result.reasons[0]


def test_restoring_what_was_clipped_is_better_and_says_by_how_much(base, tmp_path):
    """The report's figures put a number on it: the divergence falls."""
    diverged = []
    for restored in (False, True):
        release = make(base, tmp_path / str(restored), clipped(restored=restored), [PLACE])
        result = compared(release, depths=(QUALITY,))
        diverged += [check.figures["kl"] for check in result.checks if check.name == "divergence"]
    assert diverged[1] < diverged[0]
