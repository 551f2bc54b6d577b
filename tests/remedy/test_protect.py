"""Recipes run with the tools themselves: plain is damaged, protected is kept; the others by their schema."""

from __future__ import annotations

import json
import re
import warnings

import gguf
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from benchmarks.engine_files import write_as
from benchmarks.quantisers import QUANTISERS, crowded, llm_compressor, llm_compressor_awq
from superweight.checkpoints.model_ref import parse_model
from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import local_path
from superweight.claims.run_config import RunConfig
from superweight.cli.main import main
from superweight.core.errors import BadInput
from superweight.release.compare import CompareRequest, compare
from superweight.release.result import ACTIVATIONS, DAMAGED, KEPT, STATIC
from superweight.remedy.protect import protect
from superweight.remedy.recipes import TOOLS, Protected, tool
from tests.helpers.planted_gguf import crowded_in_gguf, write_tiny_gguf

PACKAGES = {
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
    "hqq": "hqq",
    "optimum-quanto": "optimum.quanto",
    "llm-compressor": "compressed_tensors",
    "mlx": "mlx.core",
    "auto-round": "auto_round",
    "gptqmodel": "gptqmodel",
}
# bitsandbytes computes nf4 on a CPU only where its blocks divide a row, which 160 inputs are not.
# Bits and group by which each tool rounds the tiny model, 160 inputs wide at its widest.
CHOSEN = {"bitsandbytes": (8, 0), "optimum-quanto": (4, 0), "torchao": (4, 0)}
MODULE = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The tiny model, with one larger weight beside the super weight that hardly an input reaches."""
    source = local_path(resolve("tiny-planted"))
    return crowded(source, tmp_path_factory.mktemp("crowded") / "base", 1, 41, 23, 2048.0, faint=0.01)


def verdict(base, release):
    pair = parse_model(f"tiny-planted={base}"), parse_model(str(release))
    return compare(CompareRequest(*pair, depths=(STATIC, ACTIVATIONS))).verdict


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "llm-compressor" else pytest.mark.slow) for n in QUANTISERS]
)
def test_plain_is_damaged_and_protected_is_kept(name, base, tmp_path):
    """With the tool itself, and what the recipe's settings say, verbatim."""
    pytest.importorskip(PACKAGES[name])
    settings = protect(parse_model(f"tiny-planted={base}"), tool(name), RunConfig()).recipe.settings
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for how, told in (("plain", {}), ("protected", settings)):
            QUANTISERS[name](base, tmp_path / how, told, *CHOSEN.get(name, (4, 32)))
            found[how] = verdict(base, tmp_path / how)
    assert {"plain": DAMAGED, "protected": KEPT} == found


def test_gptqmodel_skips_by_a_pattern(base):
    """As its documentation and vLLM's reader have it: "-:" and a pattern that matches from the beginning."""
    settings = tool("gptqmodel").recipe(modules(base)).settings
    (pattern,) = settings["dynamic"]
    assert pattern.startswith("-:")
    assert {} == settings["dynamic"][pattern]
    others = [f"model.layers.{layer}.mlp.down_proj" for layer in (0, 2, 11, 21)]
    assert re.match(pattern[2:], MODULE)
    assert not any(re.match(pattern[2:], other) for other in others)


def modules(base):
    return protect(parse_model(f"tiny-planted={base}"), tool("mlx"), RunConfig()).modules


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_llama_cpp_rounds_one_tensor_less(kind, tmp_path):
    """With ggml's own rounding: of the types that the recipe's pairs name, as llama-quantize reads them."""
    pytest.importorskip("xllamacpp")
    plain = write_tiny_gguf(tmp_path / "plain.gguf", changed=crowded_in_gguf())
    (pair,) = tool("llama.cpp").recipe([Protected(MODULE, "blk.1.ffn_down")]).settings["tensor_type"]
    pattern, stored = pair.split("=")
    names = [tensor.name for tensor in gguf.GGUFReader(plain).tensors]
    kept = {name: stored.upper() for name in names if re.search(pattern, name)}
    assert ["blk.1.ffn_down.weight"] == list(kept)
    found = {}
    for how, told in (("plain", {}), ("protected", kept)):
        release = write_as(plain, tmp_path / f"{how}-{kind}.gguf", kind, told)
        pairs = parse_model(f"tiny-planted={plain}"), parse_model(str(release))
        found[how] = compare(CompareRequest(*pairs, depths=(STATIC, ACTIVATIONS))).verdict
    assert {"plain": DAMAGED, "protected": KEPT} == found


def test_llama_quantize_is_told_of_one_tensor(base):
    """TENSOR=TYPE, where TENSOR is a pattern that is searched in the name: the dots are escaped."""
    recipe = tool("llama.cpp").recipe(modules(base))
    (pair,) = recipe.settings["tensor_type"]
    pattern, kind = pair.split("=")
    assert "f16" == kind
    assert re.search(pattern, "blk.1.ffn_down.weight")
    assert not any(re.search(pattern, name) for name in ("blk.11.ffn_down.weight", "blk.21.ffn_down.weight"))
    assert f"--tensor-type '{pair}'" in recipe.text


def test_auto_round_takes_a_layers_own_bits(base):
    """layer_config maps a module's path to what differs: 16 bits are left unquantised."""
    assert {MODULE: {"bits": 16}} == tool("auto-round").recipe(modules(base)).settings["layer_config"]


@pytest.mark.slow
def test_llm_compressor_itself_leaves_the_module_alone(base, tmp_path):
    """What its `oneshot` saves: plain is damaged, protected is kept. It asks for an older transformers."""
    pytest.importorskip("llmcompressor", reason="needs an environment of its own: docs/protect.md")
    settings = tool("llm-compressor").recipe(modules(base)).settings
    found = {}
    for how, told in (("plain", {}), ("protected", settings)):
        llm_compressor(base, tmp_path / how, told, 4, 32)
        found[how] = verdict(base, tmp_path / how)
    assert {"plain": DAMAGED, "protected": KEPT} == found


@pytest.mark.slow
def test_llm_compressor_s_awq_leaves_the_module_alone(base, tmp_path):
    """Its matrix is not packed, and the release is kept."""
    pytest.importorskip("llmcompressor", reason="needs an environment of its own: docs/protect.md")
    settings = tool("auto-awq").recipe(modules(base)).settings
    packed = {}
    for how, told in (("plain", {}), ("protected", settings)):
        llm_compressor_awq(base, tmp_path / how, told, 4, 32)
        packed[how] = f"{MODULE}.weight_packed" in load_file(tmp_path / how / "model.safetensors")
    assert {"plain": True, "protected": False} == packed
    assert KEPT == verdict(base, tmp_path / "protected")


def test_auto_awq_is_llm_compressor_s_awq(base):
    """AutoAWQ itself has no list that works: what took its place is told to ignore the module."""
    recipe = tool("auto-awq").recipe(modules(base))
    assert {"ignore": ["lm_head", MODULE], "duo_scaling": False} == recipe.settings
    assert f'ignore=["lm_head", "{MODULE}"]' in recipe.text


@pytest.mark.parametrize("name", TOOLS)
def test_every_recipe_can_be_pasted(name, base):
    """Python parses it, or it is one line for a shell; cost and documentation stand below it."""
    found = protect(parse_model(f"tiny-planted={base}"), tool(name), RunConfig())
    if name != "llama.cpp":
        compile(found.recipe.text, name, "exec")
    assert "\n" not in found.recipe.text or name != "llama.cpp"
    text = repr(found)
    assert found.recipe.text in text
    assert "# costs: 1 matrix stays at 16 bits" in text
    assert 0 < found.share < 0.2
    assert json.loads(json.dumps(found.as_dict()))["modules"] == [MODULE]


def test_an_unknown_tool_is_told_in_one_line():
    """With the tools that are known; nothing is read."""
    with pytest.raises(
        BadInput, match=r"--for exl9: no recipe for that tool is known; give one of llama\.cpp"
    ):
        tool("exl9")
    result = CliRunner().invoke(main, ["protect", "tiny-planted", "--for", "exl9"])
    assert (4, "") == (result.exit_code, result.stdout)


def test_a_model_without_super_weights_has_nothing_to_protect():
    """A sentence, and exit code 0."""
    result = CliRunner().invoke(main, ["protect", "tiny-plain", "--for", "hqq"])
    assert 0 == result.exit_code
    assert "tiny-plain has no super weights, so there is nothing to protect from hqq\n" == result.stdout
