"""A model that is run block by block leaves the trace of the loaded one, bit for bit."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import fields

import ml_dtypes
import numpy as np
import pytest
import torch

from superweight.checkpoints.dequantised import plain_tensors
from superweight.checkpoints.registry import resolve
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.core.errors import BrokenModel, HarnessError, UnknownArchitecture
from superweight.core.resources import fixtures_directory
from superweight.detection.run_trace import trace
from superweight.detection.trace import Write
from superweight.model import dequantised, streamed_model
from superweight.model.architecture import inspect_architecture
from superweight.model.block_stream import BlockStream
from superweight.model.dequantised import LazyTensor
from superweight.model.loading import load
from superweight.model.sparse_memory import sparse_tensor
from superweight.model.stored_numbers import read_whole
from superweight.model.streamed_model import streamed
from tests.helpers.checkpoint_files import copy_checkpoint, rewrite
from tests.helpers.planted_gguf import write_tiny_gguf
from tests.release.packed_models import FORMS, pack
from tools.decoder_sweep import CAUSAL, IMAGE_TEXT, VARIANT, build, jobs

TEXT = "The bridge was closed."
PLANTED = fixtures_directory() / "checkpoints" / "tiny-planted"
# One of each way in which a block may write, a table that is read by its class, routed experts, and
# numbers that a class makes up as it is built.
SAMPLE = ["llama", "gpt2", "whisper", "gemma3n_text", "deepseek_v3", "llama4_text", "diffllama"]


def saved(model, folder):
    """Save a model with the tokenizer of the tiny ones."""
    model.save_pretrained(folder)
    for file in PLANTED.glob("*token*"):
        shutil.copy(file, folder)
    return resolve(str(folder))


def same(first, second):
    """Hold two traces to each other, bit for bit."""
    assert np.array_equal(first.residual, second.residual)
    assert len(first.writes) == len(second.writes)
    for one, other in zip(first.arrived, second.arrived, strict=True):
        assert np.array_equal(one, other)
    for one, other in zip(first.writes, second.writes, strict=True):
        for ours, theirs in zip(one, other, strict=True):
            assert all(
                np.array_equal(getattr(ours, item.name), getattr(theirs, item.name)) for item in fields(Write)
            )
    assert first.carry == second.carry
    for one, other in zip(first.norms, second.norms, strict=True):
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one.gains, other.gains)


def compared(entry):
    """Return a loaded model's trace, and what the same model says when it is run block by block."""
    subject = load(entry, device="cpu")
    with streamed(entry) as opened:
        same(trace(subject, TEXT), trace(opened.subject, TEXT))
        return opened.stream


@pytest.mark.parametrize("model_type", SAMPLE)
def test_the_trace_is_the_loaded_models(model_type, tmp_path):
    """Whatever writes to the stream, and however its parameters are stored."""
    compared(saved(build(jobs(CAUSAL)[model_type]), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "key"),
    [(classes, key) for classes in (CAUSAL, VARIANT, IMAGE_TEXT) for key in jobs(classes)],
)
def test_every_decoder_is_the_loaded_one_or_refused(classes, key, tmp_path):
    """Each class that transformers registers and that loads: the same bits, or one line."""
    try:
        entry = saved(build(jobs(classes)[key]), tmp_path)
        subject = load(entry, device="cpu")
        wanted = trace(subject, TEXT)
    except Exception as error:
        pytest.skip(f"does not load: {error}")
    refusal = ""
    try:
        with streamed(entry) as opened:
            same(wanted, trace(opened.subject, TEXT))
    except HarnessError as error:
        refusal = str(error)
    assert not refusal or "not run block by block" in refusal


# Three in every run, all of them in long ones.
SOME = [pytest.param(name, marks=[] if place < 3 else [pytest.mark.slow]) for place, name in enumerate(FORMS)]


@pytest.mark.parametrize("name", SOME)
def test_every_packed_form_is_run_block_by_block(name, tmp_path, monkeypatch):
    """As the model that is loaded unpacked."""
    monkeypatch.setattr(dequantised, "_installed", lambda package: False)
    compared(resolve(str(pack(PLANTED, tmp_path / "packed", name))))


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_gguf_file_is_run_block_by_block(kind, tmp_path):
    """As its converted copy is."""
    write_tiny_gguf(tmp_path / "m.gguf", kind=kind)
    compared(resolve(str(tmp_path / "m.gguf")))


def test_blocks_of_scales_are_applied_as_the_reader_applies_them(tmp_path, write_safetensors):
    """Also where the last block of a row or column is a part of one."""
    generator = np.random.default_rng(3)
    codes = generator.normal(size=(300, 200)).astype(ml_dtypes.float8_e4m3fn)
    scales = generator.uniform(0.5, 2.0, (3, 2)).astype(np.float32)
    stored = {
        "a.weight": ("F8_E4M3", [300, 200], codes.tobytes()),
        "a.weight_scale_inv": ("F32", [3, 2], scales.tobytes()),
    }
    checkpoint = open_checkpoint(write_safetensors(tmp_path / "m.safetensors", stored))
    lazy = LazyTensor(plain_tensors(checkpoint)["a.weight"], (300, 200), False)
    wanted = codes.astype(np.float32) * np.repeat(np.repeat(scales, 128, 0), 128, 1)[:300, :200]
    assert np.array_equal(wanted, read_whole(lazy, torch.float32).numpy())
    assert torch.equal(torch.from_numpy(wanted).bfloat16(), read_whole(lazy, torch.bfloat16))


def test_no_more_than_two_blocks_are_in_memory(monkeypatch):
    """One that runs, and one that is brought meanwhile; all are given back at the end."""
    most = []
    with streamed(resolve("tiny-planted")) as opened:
        stream, model = opened.stream, opened.subject.model

        def real():
            blocks = [
                number
                for number, block in enumerate(opened.subject.architecture.blocks)
                if any(not parameter.is_meta for parameter in block.parameters())
            ]
            most.append(blocks)

        for block in opened.subject.architecture.blocks:
            block.register_forward_hook(lambda *_: real())
        trace(opened.subject, TEXT)
        assert [0, 1, 2, 3] == stream.entered
    assert all({number} <= set(blocks) <= {number, number + 1} for number, blocks in enumerate(most))
    assert all(parameter.is_meta for parameter in opened.subject.architecture.blocks[0].parameters())
    assert model.lm_head.weight.is_meta


def test_only_rows_of_the_prompt_are_read_of_the_embedding(tmp_path):
    """And none of the head: without the blocks next to nothing is left."""
    with streamed(resolve("tiny-planted")) as opened:
        before = opened.checkpoint.folder.brought
        ids = torch.tensor([opened.subject.encode(TEXT)])
        table = opened.subject.model.get_input_embeddings()
        rows = table(ids)
        brought = opened.checkpoint.folder.brought - before
        distinct = len(set(ids[0].tolist()))
        assert distinct * 64 * 2 == brought
        table(ids)
        assert brought == opened.checkpoint.folder.brought - before
        with pytest.raises(UnknownArchitecture, match=r"embed_tokens.weight is read by sum, not row by row"):
            table.weight.sum()
    assert torch.equal(rows, load(resolve("tiny-planted")).model.get_input_embeddings()(ids))


def test_blocks_that_share_weights_are_refused_by_name():
    """What one block gives back the other would still need."""
    model = build(jobs(CAUSAL)["llama"])
    model.model.layers[1].mlp = model.model.layers[0].mlp
    architecture = inspect_architecture(model)
    model.to("meta")
    with pytest.raises(UnknownArchitecture, match="uses the same Linear in several blocks"):
        BlockStream(model, architecture, [])


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight"), "up_proj.weight is missing"),
        (
            lambda tensors: tensors.update(
                {"model.layers.2.mlp.up_proj.weight": torch.zeros(3, 64, dtype=torch.bfloat16)}
            ),
            "has shape [3, 64] where config.json asks for [160, 64]",
        ),
        (
            lambda tensors: tensors["model.layers.2.mlp.up_proj.weight"].fill_(float("nan")),
            "holds NaN or infinity",
        ),
        (
            lambda tensors: tensors.update({"model.layers.4.mlp.up_proj.weight": torch.zeros(160, 64)}),
            "would be left out, because config.json has 4 blocks",
        ),
    ],
    ids=["missing", "shape", "nan", "beyond"],
)
def test_what_a_loaded_model_is_refused_for_a_streamed_one_is_too(spoil, line, tmp_path):
    """At the latest when the block is brought."""
    copy_checkpoint("tiny-planted", tmp_path / "m")
    rewrite(tmp_path / "m", spoil)
    with pytest.raises(BrokenModel) as refused, streamed(resolve(str(tmp_path / "m"))) as opened:
        trace(opened.subject, TEXT)
    assert line in str(refused.value)


def test_opening_leaves_no_folder_behind(monkeypatch, tmp_path):
    """Config and tokenizer are read from one for a moment."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with streamed(resolve("tiny-planted")) as opened:
        trace(opened.subject, TEXT)
        assert [] == list(tmp_path.iterdir())


def test_a_sparse_tensor_takes_only_what_is_written():
    """A thousand times what the machine has."""
    table = sparse_tensor((2**22, 2**20), torch.float16)
    table[12345] = 1.0
    assert 2**20 == int(table[12345].float().sum())
    assert 0 == int(table[12346].float().sum())


def test_two_blocks_that_do_not_fit_in_float32_are_held_in_16_bits(monkeypatch, caplog):
    """And a line says so."""
    monkeypatch.setattr(streamed_model, "free_memory", lambda: 10**6)
    with streamed(resolve("tiny-planted")) as opened:
        assert torch.bfloat16 == opened.subject.model.dtype
    assert "it is computed with in bfloat16" in caplog.text
