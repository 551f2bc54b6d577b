"""Mistral's own layout, consolidated.safetensors and params.json, read and compared by its files."""

import json

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import local_path
from superweight.cli.main import main

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


@pytest.fixture
def release(tmp_path):
    """Write the planted model under Mistral's names; one number may be multiplied."""

    def make(kept=1.0):
        tensors = {}
        for name, tensor in load_file(local_path(resolve("tiny-planted")) / "model.safetensors").items():
            native = name.removeprefix("model.")
            for old, new in NAMES.items():
                native = native.replace(old, new)
            tensors[native] = tensor
        tensors["layers.1.feed_forward.w2.weight"][41, 23] *= kept
        save_file(tensors, tmp_path / "consolidated.safetensors")
        (tmp_path / "params.json").write_text(json.dumps({"dim": 64, "n_layers": 4}))
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
