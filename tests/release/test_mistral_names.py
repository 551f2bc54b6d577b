"""Mistral's own layout, consolidated.safetensors and params.json, read and compared by its files."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import AutoConfig
from transformers.core_model_loading import PermuteForRope

from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import local_path
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.cli.main import main
from superweight.core.coordinates import Coordinate
from superweight.release.extents import in_memory
from superweight.release.limits import Limits
from superweight.release.matrix_checks import NUMBERS
from superweight.release.result import KEPT
from superweight.release.rope_order import in_transformers_order
from superweight.release.static_checks import compare_static

NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "embed_tokens": "tok_embeddings",
    "lm_head": "output",
}


PARAMS = {"dim": 64, "n_layers": 4, "n_heads": 4, "n_kv_heads": 4}


def turned(tensor):
    """Put the rows of queries or keys into Mistral's order, by transformers' own conversion."""
    config = AutoConfig.from_pretrained(local_path(resolve("tiny-planted")))
    held = PermuteForRope(inverse=True).convert({"q": tensor}, ["q"], ["q"], config)
    return held["q"].contiguous()


@pytest.fixture
def release(tmp_path):
    """Write the planted model under Mistral's names and in its order; one number may be multiplied."""

    def make(kept=1.0, params=PARAMS, order=turned):
        tensors = {}
        for name, tensor in load_file(local_path(resolve("tiny-planted")) / "model.safetensors").items():
            native = name.removeprefix("model.")
            for old, new in NAMES.items():
                native = native.replace(old, new)
            tensors[native] = order(tensor) if native.endswith(("wq.weight", "wk.weight")) else tensor
        tensors["layers.1.feed_forward.w2.weight"][41, 23] *= kept
        save_file(tensors, tmp_path / "consolidated.safetensors")
        (tmp_path / "params.json").write_text(json.dumps(params))
        return str(tmp_path)

    return make


def test_a_scalar_is_read_under_mistrals_names(release):
    """The output projection is feed_forward.w2."""
    result = CliRunner().invoke(main, ["read", release(), "--at", "1,41,23", "--json", "-"])
    assert 0 == result.exit_code, result.output
    (scalar,) = json.loads(result.output)["scalars"]
    assert (4.0, "layers.1.feed_forward.w2.weight") == (scalar["value"], scalar["tensor"])


@pytest.mark.parametrize(("kept", "code"), [(1.0, 0), (0.1, 3)])
def test_it_is_compared_with_its_base_by_the_files(release, kept, code):
    """All tensors have their counterparts; a super weight that changed is not kept."""
    result = CliRunner().invoke(main, ["compare", "tiny-planted", release(kept), "--depth", "static"])
    assert code == result.exit_code, result.output
    assert ("super weight [1, 41, 23] went from 4 to 0.4" in result.output) == (code == 3)


def test_queries_and_keys_are_compared_in_one_order(release):
    """Mistral holds the two numbers of a rotated pair side by side: the equal model is equal."""
    result = CliRunner().invoke(main, ["compare", "tiny-planted", release(), "--depth", "static"])
    assert "all 39 tensors hold the base's numbers, or near to them" in result.output, result.output


def test_a_base_that_holds_a_params_json_beside_its_own_files_stays_as_it_is(release, tmp_path_factory):
    """Mistral's repositories hold both layouts: the side under transformers' names is not turned."""
    base = tmp_path_factory.mktemp("both") / "base"
    shutil.copytree(local_path(resolve("tiny-planted")), base)
    (base / "params.json").write_text(json.dumps(PARAMS))
    for pair in ((str(base), release()), (release(), str(base))):
        checks = compare_static(*map(open_checkpoint, pair), [Coordinate(1, 41, 23)], Limits())
        assert [KEPT] == [check.status for check in checks if check.name == NUMBERS], checks


def test_queries_and_keys_in_transformers_order_are_seen(release):
    """A file that holds them as transformers does is no file of Mistral's: eight matrices are others."""
    where = release(order=lambda tensor: tensor)
    result = CliRunner().invoke(main, ["compare", "tiny-planted", where, "--depth", "static"])
    assert 3 == result.exit_code, result.output
    assert "8 of 39 tensors hold other numbers than the base's" in result.output


def test_without_the_number_of_heads_their_order_is_not_judged(release):
    """What params.json does not tell is not guessed."""
    where = release(params={"dim": 64, "n_layers": 4})
    result = CliRunner().invoke(main, ["compare", "tiny-planted", where, "--depth", "static"])
    assert 0 == result.exit_code, result.output


@pytest.mark.parametrize(("heads", "length"), [(1, 2), (2, 4), (4, 16), (3, 8)])
def test_the_order_is_that_of_transformers(heads, length):
    """On any number of heads of any even length, PermuteForRope of transformers does the same."""
    rows = torch.arange(heads * length * 3, dtype=torch.float32).reshape(-1, 3)
    config = SimpleNamespace(num_attention_heads=heads)
    expected = PermuteForRope().convert({"q": rows}, ["q"], ["q"], config)["q"]
    table = in_transformers_order(in_memory(rows.numpy()), length)
    assert expected.tolist() == table.rows(0, table.count).tolist()
