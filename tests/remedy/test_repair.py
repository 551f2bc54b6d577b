"""A damaged release is repaired in place, in a GGUF file, and in packed forms; all else stays as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file

from superweight.checkpoints.model_ref import parse_model
from superweight.checkpoints.registry import resolve
from superweight.checkpoints.scalars import open_model
from superweight.checkpoints.sources import local_path
from superweight.checkpoints.tensors.locations import locate
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.cli.main import main
from superweight.core.coordinates import Coordinate, GainCoordinate
from superweight.core.errors import BadInput, HarnessError
from superweight.release.compare import CompareRequest
from superweight.release.result import DAMAGED, KEPT, STATIC
from superweight.remedy import release_copy, whole_folder
from superweight.remedy.release_copy import digest
from superweight.remedy.repair import ELSEWHERE, NOTHING, REPAIRED, RepairRequest, repair
from tests.helpers.planted_release import DOWN, PLACE, as_gguf, gguf_digests
from tests.release import packed_models
from tests.release.releases import clipped, int4_by_tensor, make, random_weights, scaled, sharded

TARGET = "repaired"


@pytest.fixture(scope="module")
def base():
    return local_path(resolve("tiny-planted"))


def moved(tensors, places):
    """Swap the super weight with its neighbour in the row, as a converter does that is off by one."""
    row = tensors[DOWN][PLACE.row]
    row[[PLACE.col, PLACE.col + 1]] = row[[PLACE.col + 1, PLACE.col]]


def poisoned(tensors, places):
    tensors[DOWN][PLACE.row, PLACE.col] = float("nan")


IN_THE_SUPER_WEIGHT = {
    "zeroed": scaled(0.0),
    "flipped": scaled(-1.0),
    "halved": scaled(0.5),
    "moved": moved,
    "not a number": poisoned,
    "clipped": clipped(restored=False),
}


def request(release, target, base="tiny-planted", depths=(STATIC,), **options):
    compared = CompareRequest(parse_model(str(base)), parse_model(str(release)), depths)
    return RepairRequest(compared, target, **options)


def value(path):
    checkpoint = open_checkpoint(path)
    (found,) = locate(checkpoint, PLACE)
    return found.scalar(checkpoint, PLACE.row, PLACE.col).value


@pytest.mark.parametrize("damage", IN_THE_SUPER_WEIGHT)
def test_a_scalar_is_put_back_in_place(damage, base, tmp_path):
    """The copy is kept; the release is untouched; every other number of the copy is the release's."""
    release = make(base, tmp_path / "release", IN_THE_SUPER_WEIGHT[damage], [PLACE])
    before = (release / "model.safetensors").read_bytes()
    result = repair(request(release, tmp_path / TARGET))
    assert REPAIRED == result.outcome
    assert KEPT != result.before.verdict
    after = {check.name: check.status for check in result.after.checks}
    assert KEPT == after[f"super weight {PLACE}"]
    assert KEPT == result.verdict
    assert before == (release / "model.safetensors").read_bytes()
    assert value(base) == value(tmp_path / TARGET)
    was, now = (load_file(folder / "model.safetensors") for folder in (release, tmp_path / TARGET))
    assert [DOWN] == [name for name in was if not was[name].equal(now[name])]
    different = int((was[DOWN] != now[DOWN]).sum())
    assert (2 if damage == "moved" else 1) == different == len(result.restored)


def test_the_header_and_all_else_keep_their_bytes(base, tmp_path):
    """But for the two bytes of one bfloat16, the file is the release's, and so is every other file."""
    release = make(base, tmp_path / "release", scaled(0.0), [PLACE])
    (release / "notes").mkdir()
    (release / "notes" / "README.md").write_text("mine")
    repair(request(release, tmp_path / TARGET))
    was, now = (
        np.fromfile(folder / "model.safetensors", np.uint8) for folder in (release, tmp_path / TARGET)
    )
    assert 0 < int((was != now).sum()) <= 2
    for file in release.rglob("*"):
        if file.is_file() and file.suffix != ".safetensors":
            assert file.read_bytes() == (tmp_path / TARGET / file.relative_to(release)).read_bytes()


def test_one_shard_of_several_changes(base, tmp_path):
    """The others and the index keep their bytes."""
    broken = make(base, tmp_path / "broken", scaled(0.0), [PLACE])
    release = sharded(broken, tmp_path / "release", swapped=False)
    result = repair(request(release, tmp_path / TARGET))
    assert KEPT == result.verdict
    changed = [
        file.name
        for file in release.iterdir()
        if file.read_bytes() != (tmp_path / TARGET / file.name).read_bytes()
    ]
    assert [open_checkpoint(release).files[DOWN]] == changed


def test_a_moved_scalar_within_the_limits_is_left_alone_unless_named(base, tmp_path):
    """A fine-tune that grew it by a tenth meant that; whoever names it wants it back."""
    release = make(base, tmp_path / "release", scaled(1.1), [PLACE])
    result = repair(request(release, tmp_path / TARGET))
    assert (NOTHING, KEPT) == (result.outcome, result.verdict)
    assert 1 == len(result.left)
    assert not (tmp_path / TARGET).exists()
    result = repair(request(release, tmp_path / TARGET, named=(PLACE,)))
    assert REPAIRED == result.outcome
    assert 4.0 == value(tmp_path / TARGET)


def test_damage_elsewhere_is_not_mended_by_this(base, tmp_path):
    """A norm that was emptied is damage, no scalar stands in it, and nothing is written."""

    def emptied(tensors, places):
        tensors["model.norm.weight"].zero_()

    release = make(base, tmp_path / "release", emptied, [PLACE])
    result = repair(request(release, tmp_path / TARGET))
    assert (ELSEWHERE, DAMAGED) == (result.outcome, result.verdict)
    assert "model.norm.weight is all zero" in result.reason
    assert not (tmp_path / TARGET).exists()


def test_a_rounded_release_whose_scalar_survived_is_not_written(base, tmp_path):
    """By its files it changed, and only a forward pass tells whether that matters."""
    release = make(base, tmp_path / "release", int4_by_tensor, [PLACE])
    assert repair(request(release, tmp_path / TARGET)).copy is None
    assert not (tmp_path / TARGET).exists()


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_one_tensor_of_a_gguf_file_is_stored_in_a_finer_type(kind, base, tmp_path):
    """All metadata and every other tensor are byte for byte the same; llama.cpp reads mixed files."""
    release = as_gguf(base, tmp_path / "release.gguf", gguf.GGMLQuantizationType.Q4_0, scaled(0.0))
    result = repair(request(release, tmp_path / TARGET, gguf_type=kind))
    copy = tmp_path / TARGET / "release.gguf"
    assert copy == result.copy
    own = "blk.1.ffn_down.weight"
    was, now = gguf_digests(release), gguf_digests(copy)
    assert [own] == [name for name in was if was[name] != now[name]]
    assert list(was) == list(now)
    assert kind == open_checkpoint(copy).info(own).dtype
    assert 4.0 == pytest.approx(value(copy), rel=1e-3)
    assert [] == [
        check
        for check in result.after.checks
        if check.name.startswith("super weight") and check.status != KEPT
    ]


def test_a_plain_gguf_file_is_changed_in_place(base, tmp_path):
    """A float16 scalar is two bytes of the file."""
    release = as_gguf(base, tmp_path / "release.gguf", gguf.GGMLQuantizationType.F16, scaled(0.0))
    repair(request(release, tmp_path / TARGET))
    was, now = (np.fromfile(path, np.uint8) for path in (release, tmp_path / TARGET / "release.gguf"))
    assert 0 < int((was != now).sum()) <= 2


@pytest.mark.parametrize("form", packed_models.FORMS)
def test_one_module_of_a_packed_release_is_stored_unquantised(form, base, tmp_path):
    """The form's own list in config.json names it, and every other tensor is the release's."""
    release = packed_models.pack(base, tmp_path / "release", form, (1, 41, 23))
    result = repair(request(release, tmp_path / TARGET))
    assert REPAIRED == result.outcome, result
    after = {check.name: check for check in result.after.checks}
    assert KEPT == after[f"super weight {PLACE}"].status
    named = (tmp_path / TARGET / "config.json").read_text().replace("\\", "")
    assert "model.layers.1.mlp.down_proj" in named
    was, now = open_checkpoint(release).tensors(), open_checkpoint(tmp_path / TARGET).tensors()
    gone = {name for name in was if name.startswith("model.layers.1.mlp.down_proj.")}
    assert {DOWN} == now.keys() - (was.keys() - gone)
    assert all(digest(was[name]) == digest(now[name]) for name in was.keys() - gone)


def test_a_gain_is_put_back_where_it_is_named(base, tmp_path):
    """By its norm and channel, in place."""

    def changed(tensors, places):
        tensors["model.layers.2.post_attention_layernorm.weight"][7] = 9.0

    release = make(base, tmp_path / "release", changed, [PLACE])
    gain = GainCoordinate(2, "post_attention_layernorm", 7)
    result = repair(request(release, tmp_path / TARGET, named=(gain,)))
    assert [gain] == [item.place for item in result.restored]
    name = "model.layers.2.post_attention_layernorm.weight"
    with (
        safe_open(tmp_path / TARGET / "model.safetensors", "pt") as copy,
        safe_open(base / "model.safetensors", "pt") as own,
    ):
        assert own.get_tensor(name).equal(copy.get_tensor(name))


def test_another_models_scalars_are_not_put_in(base, tmp_path):
    """Random weights of the same shape, and the twin without a super weight, have another base."""
    release = make(base, tmp_path / "release", random_weights, [PLACE])
    for other in (release, "tiny-plain"):
        with pytest.raises(BadInput, match=r"is not what .* was made from"):
            repair(request(other, tmp_path / TARGET))
    assert not (tmp_path / TARGET).exists()


def test_a_base_without_super_weights_has_nothing_to_put_back(base, tmp_path):
    """A sentence, and nothing is written."""
    release = make(local_path(resolve("tiny-plain")), tmp_path / "release", scaled(1.0), [PLACE])
    result = repair(request(release, tmp_path / TARGET, base="tiny-plain"))
    assert "tiny-plain has no super weights" in result.reason
    assert not (tmp_path / TARGET).exists()


@pytest.fixture
def damaged(base, tmp_path):
    return make(base, tmp_path / "release", scaled(0.0), [PLACE])


def test_the_target_is_a_new_folder(damaged, tmp_path):
    """Not the release, nor inside it, nor one that holds something, nor below one that is not there."""
    full = tmp_path / "full"
    shutil.copytree(damaged, full)
    for target, words in [
        (damaged, "is where .* lies"),
        (damaged / "inside", "lies inside"),
        (full, "is there already"),
        (tmp_path / "none" / "there", "there is no folder"),
    ]:
        with pytest.raises(BadInput, match=words):
            repair(request(damaged, target))
    assert {"release", "full"} == {path.name for path in tmp_path.iterdir()}


def test_a_full_disk_is_told_of_before_anything_is_written(damaged, tmp_path, monkeypatch):
    """With what the copy takes and what is left."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(whole_folder.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(BadInput, match=r"the copy takes 1.* MB and the disk has 0\.001 MB left"):
        repair(request(damaged, tmp_path / TARGET))
    assert ["release"] == [path.name for path in tmp_path.iterdir()]


def test_a_copy_that_is_cut_short_leaves_nothing(damaged, tmp_path, monkeypatch):
    """The disk fills up while the copy is written, in spite of what was counted before."""

    def full(copy, patched):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(release_copy, "_patch", full)
    with pytest.raises(BadInput, match="No space left on device; nothing was written"):
        repair(request(damaged, tmp_path / TARGET))
    assert ["release"] == [path.name for path in tmp_path.iterdir()]


def test_a_copy_that_changed_more_is_not_kept(damaged, tmp_path, monkeypatch):
    """The proof by hashes sees a byte that was not to change."""
    patch = release_copy._patch

    def clumsy(copy, patched):
        patch(copy, patched)
        info = copy.info("model.norm.weight")
        with Path(info.file.name).open("r+b") as file:
            file.seek(info.start)
            file.write(b"\0")

    monkeypatch.setattr(release_copy, "_patch", clumsy)
    with pytest.raises(HarnessError, match=r"the copy changed model\.norm\.weight"):
        repair(request(damaged, tmp_path / TARGET))
    assert ["release"] == [path.name for path in tmp_path.iterdir()]


def test_a_form_without_a_list_is_refused_with_the_reason(base, tmp_path):
    """Of what has no list of unquantised modules nothing is written."""
    release = packed_models.pack(base, tmp_path / "release", "HQQ int4", (1, 41, 23))
    config = json.loads((release / "config.json").read_text())
    config["quantization_config"]["quant_method"] = "eetq"
    (release / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="eetq has no list of modules that stay unquantised"):
        repair(request(release, tmp_path / TARGET))
    assert ["release"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.slow
def test_a_release_is_compared_at_every_depth_before_and_after(damaged, tmp_path):
    """The base is loaded once; the copy predicts as the base does."""
    steps = []
    result = repair(
        request(damaged, tmp_path / TARGET, depths=("static", "activations", "quality")), steps.append
    )
    assert (DAMAGED, KEPT) == (result.before.verdict, result.after.verdict)
    assert 1 == steps.count("loading tiny-planted")
    assert Coordinate(*PLACE.indices) == result.restored[0].place
    assert open_model(parse_model(str(tmp_path / TARGET)).entry).files


def called(*arguments):
    return CliRunner().invoke(main, ["repair", *map(str, arguments), "--depth", "static"])


def test_the_command_exits_0_for_a_kept_copy_and_says_what_it_did(damaged, tmp_path):
    """With the scalar from and to, and the same as JSON."""
    result = called("tiny-planted", damaged, "--out", tmp_path / TARGET, "--json", tmp_path / "out.json")
    assert 0 == result.exit_code, result.output
    assert "super weight [1, 41, 23]: 0 becomes 4" in result.stdout
    written = json.loads((tmp_path / "out.json").read_text())
    assert (REPAIRED, KEPT) == (written["outcome"], written["after"]["verdict"])


def test_the_command_exits_1_for_damage_elsewhere_and_4_for_bad_input(base, damaged, tmp_path):
    """One line on stderr; nothing is written."""

    def emptied(tensors, places):
        tensors["model.norm.weight"].zero_()

    elsewhere = make(base, tmp_path / "elsewhere", emptied, [PLACE])
    assert 1 == called("tiny-planted", elsewhere, "--out", tmp_path / TARGET).exit_code
    refused = called("tiny-planted", damaged, "--out", damaged)
    assert (4, "") == (refused.exit_code, refused.stdout)
    assert not (tmp_path / TARGET).exists()
