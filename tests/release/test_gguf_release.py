"""A GGUF release of a safetensors base: llama.cpp's names are paired, gaps and spoilt numbers are found."""

from __future__ import annotations

import json
import re

import gguf
import pytest
from safetensors.torch import load_file

from superweight.checkpoints.model_ref import parse_model
from superweight.checkpoints.registry import resolve
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.claims.run_config import RunConfig
from superweight.core.coordinates import Coordinate
from superweight.release import live_checks as live
from superweight.release.compare import CompareRequest
from superweight.release.limits import Limits
from superweight.release.result import STATIC
from superweight.release.side import Side
from superweight.release.static_checks import compare_static
from superweight.release.tensor_names import paired
from tests.helpers.checkpoint_files import finish_gguf

from .releases import make, unchanged

PLACE = Coordinate(1, 41, 23)
# llama.cpp's names of a Llama's tensors, from its own list in gguf-py.
NAMES = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 4)


@pytest.fixture(scope="module")
def base():
    entry = resolve("tiny-planted")
    return entry.root / entry.source


def written(base, path, change=unchanged):
    """Write the base as a GGUF file, under the names that gguf-py gives its tensors."""
    tensors = {name: tensor.float() for name, tensor in load_file(base / "model.safetensors").items()}
    change(tensors, [PLACE])
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(4)
    for name, tensor in tensors.items():
        own = NAMES.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(own, tensor.numpy())
    finish_gguf(writer)
    return path


def checked(base, release):
    checks = compare_static(open_checkpoint(base), open_checkpoint(release), [PLACE], Limits())
    return {check.name: check for check in checks}


def test_every_tensor_is_paired_with_its_namesake(base, tmp_path):
    """By gguf-py's own map of names; none is missing, and none has another shape."""
    pairing = paired(open_checkpoint(base), open_checkpoint(written(base, tmp_path / "release.gguf")))
    assert ((), ()) == (pairing.missing, pairing.reshaped)
    assert 4 * 9 + 3 == len(pairing.pairs)
    for was, now in pairing.pairs.values():
        assert NAMES.get_name(was.name, try_suffixes=(".weight",)) == now.name


def test_the_same_numbers_are_kept(base, tmp_path):
    """Not one check of the files finds anything."""
    found = checked(base, written(base, tmp_path / "release.gguf"))
    assert {"kept"} == {check.status for check in found.values()}
    assert "is unchanged at" in found[f"super weight {PLACE}"].reason


def reordered(tensors, places):
    """Interleave each head's halves, as llama.cpp's converter does for a Llama."""
    for name in [name for name in tensors if name.endswith(("q_proj.weight", "k_proj.weight"))]:
        halves = tensors[name].reshape(-1, 2, 8, 64)
        tensors[name] = halves.transpose(1, 2).reshape(tensors[name].shape).contiguous()


def test_the_other_order_of_heads_is_the_format_s_own(base, tmp_path):
    """Of a GGUF file it is as it should be; of another safetensors file it is a change."""
    found = checked(base, written(base, tmp_path / "release.gguf", reordered))
    assert "kept" == found["numbers of every tensor"].status
    found = checked(base, make(base, tmp_path / "release", reordered, []))
    assert "8 of 39 tensors hold other numbers" in found["numbers of every tensor"].reason


def without(name):
    def change(tensors, places):
        del tensors[name]

    return change


def emptied(tensors, places):
    tensors["model.layers.2.mlp.up_proj.weight"][7] = 0


def flipped(tensors, places):
    tensors["model.layers.3.self_attn.o_proj.weight"][5, 5] = 1e30


@pytest.mark.parametrize(
    ("change", "check", "reason"),
    [
        (without("model.layers.2.mlp.gate_proj.weight"), "structure", "1 tensors are missing: .*gate_proj"),
        (without("model.layers.0.self_attn.k_proj.weight"), "structure", "1 tensors are missing: .*k_proj"),
        (without("model.norm.weight"), "structure", "1 tensors are missing: model.norm.weight"),
        (without("model.layers.3.mlp.down_proj.weight"), "structure", "the output projection is missing"),
        (emptied, "rows and columns", r"emptied: row 7 of blk\.2\.ffn_up\.weight"),
        (flipped, "peaks", r"blk\.3\.attn_output\.weight holds a number"),
    ],
)
def test_what_a_gguf_release_lacks_is_named(change, check, reason, base, tmp_path):
    """A tensor that is not there, a row that was emptied, a number out of all proportion."""
    found = checked(base, written(base, tmp_path / "release.gguf", change))[check]
    assert "damaged" == found.status
    assert re.match(reason, found.reason)


@pytest.mark.parametrize(("eps", "status"), [(1e-6, "kept"), (1e-2, "damaged")])
def test_a_gguf_file_computes_with_the_base_s_settings_or_is_named(eps, status, base, tmp_path, monkeypatch):
    """It has no config.json: what its conversion computes with is compared once it is loaded."""
    monkeypatch.setattr(live, "_is_gguf", lambda subject: True)
    folder = make(base, tmp_path / "release", unchanged, [])
    config = json.loads((folder / "config.json").read_text()) | {"rms_norm_eps": eps}
    (folder / "config.json").write_text(json.dumps(config))
    request = CompareRequest(parse_model("tiny-planted"), parse_model(str(folder)), depths=(STATIC,))
    sides = [Side(RunConfig().evidence(model)) for model in (request.base, request.release)]
    (check,) = live.live_checks(*sides, (STATIC,), Limits())
    assert status == check.status
