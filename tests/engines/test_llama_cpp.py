"""What llama.cpp makes of the tiny models, through the real library: tokens, predictions, edits, text."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from superweight.checkpoints.model_ref import parse_model
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput, EngineFailed
from superweight.engines import choice
from superweight.engines.choice import load_engine, require_engine, texts_of
from superweight.engines.in_transformers import TransformersEngine
from superweight.engines.llama_cpp import edited_copy
from superweight.engines.llama_cpp.edited_copy import ScalarEdit, write_edited
from superweight.engines.llama_cpp.proof import require_agreement, server_logs
from superweight.engines.llama_cpp.runner import LlamaCppRunner
from superweight.engines.llama_cpp.scratch import Scratch
from superweight.engines.tokens import first_difference, require_same_tokens
from superweight.measurement.conditions import INTACT, PRUNED, Condition, pruned
from superweight.measurement.corpus import cut, documents
from superweight.model.edits import Scale
from superweight.model.loading import load
from tests.helpers.planted_gguf import BYTES, write_tiny_gguf

pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install '.[llamacpp]'")

PLACE = Coordinate(1, 41, 23)
TENSOR = "blk.1.ffn_down.weight"


def subject_of(path):
    return load(parse_model(str(path)).entry, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def plain(folder):
    """The planted model in float32: both engines compute the same."""
    return write_tiny_gguf(folder / "plain.gguf")


@pytest.fixture(scope="module")
def subject(plain):
    return subject_of(plain)


@pytest.fixture(scope="module")
def engine(subject):
    loaded = load_engine("llama.cpp", subject, "builtin", device="cpu")
    yield loaded
    loaded.free()


@pytest.fixture(scope="module")
def windows(subject):
    return cut(subject, documents("builtin"), "builtin", count=8)


@pytest.fixture(scope="module")
def rounded(folder):
    """The planted model in Q8_0, whose matrices llama.cpp multiplies with rounded activations."""
    runner = LlamaCppRunner(write_tiny_gguf(folder / "rounded.gguf", kind="Q8_0"), threads=1, gpu=False)
    yield runner
    runner.free()


def nll(runner, windows, edits=()):
    """Return the mean NLL by hand, from the logits alone."""
    runner.load(edits)
    losses = []
    for logits, ids in zip(runner.predict(windows.ids.tolist()), windows.ids, strict=True):
        values = np.asarray(logits, np.float64)
        logs = values - values.max(-1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
        losses.append(-logs[np.arange(len(logs)), ids[1:]])
    return float(np.mean(losses))


def test_both_engines_give_the_same_nll(engine, subject, windows):
    """Intact, pruned and scaled, a float32 file has the same loss in both, to a thousandth of a nat."""
    conditions = [
        Condition(PRUNED, pruned([PLACE])),
        Condition("half", (Scale(PLACE, 0.5),)),
    ]
    here = engine.measure(windows, conditions)
    there = TransformersEngine(subject).measure(windows, conditions)
    assert [INTACT, PRUNED, "half"] == list(here)
    for name in here:
        assert float(there[name].nll.mean()) == pytest.approx(float(here[name].nll.mean()), abs=1e-3)
        assert there[name].kl.mean() == pytest.approx(here[name].kl.mean(), abs=1e-3)
    # Or the edit would be one of nothing.
    assert here[PRUNED].nll.mean() > here[INTACT].nll.mean() + 5


def test_the_logits_are_those_of_the_documented_server(plain, subject):
    """What is read through the C interface is what llama.cpp's own server says of the same prompt."""
    prompt = subject.encode("The tide comes")
    said = server_logs(plain, prompt, subject.encode("e")[-1], 1, gpu=False)
    runner = LlamaCppRunner(plain, threads=1, gpu=False)
    logits = runner.predict_next(prompt)
    (before,) = runner.predict([prompt])
    runner.free()
    assert 5 == len(said)
    require_agreement(logits, said)
    with pytest.raises(EngineFailed, match="differs from what its server says"):
        require_agreement(before[-1], said)


def test_the_tokens_are_the_same_ids_with_the_bos(plain, subject):
    """Every text that is measured on is the same list of ids in both engines."""
    runner = LlamaCppRunner(plain, threads=1, gpu=False)
    texts = texts_of("builtin")
    assert list(map(subject.encode, texts)) == runner.tokenise(texts)
    assert BYTES == runner.tokenise(["a"])[0][0]
    runner.free()


def test_other_tokens_are_refused_with_their_first_difference(subject, folder):
    """A file whose llama.cpp puts no BOS in front is not judged by what transformers tokenised."""
    path = write_tiny_gguf(folder / "no-bos.gguf", bos=False)
    runner = LlamaCppRunner(path, threads=1, gpu=False)
    with pytest.raises(EngineFailed, match=r"token 0 is 256 \('<s>'\) to transformers and 51 \('T'\)"):
        require_same_tokens(subject, runner.tokenise, ["The tide"])
    runner.free()
    assert (1, 2, 3) == first_difference([1, 2], [1, 3])
    assert first_difference([1, 2], [1, 2]) is None


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1"])
def test_an_edited_copy_differs_in_one_number(folder, kind):
    """Its one tensor is float32 with one scalar scaled; all else is the original's, byte for byte."""
    source = write_tiny_gguf(folder / f"{kind}.gguf", kind=kind)
    copy = folder / f"{kind}-edited.gguf"
    write_edited(source, copy, [TENSOR], [ScalarEdit(TENSOR, (41, 23), 0.5)])
    # The format's own reader is the judge.
    before, after = (gguf.GGUFReader(path) for path in (source, copy))
    assert list(before.fields) == list(after.fields)
    for was, now in zip(before.tensors, after.tensors, strict=True):
        assert was.name == now.name
        if was.name != TENSOR:
            assert (was.tensor_type, was.data.tobytes()) == (now.tensor_type, now.data.tobytes())
            continue
        expected = gguf.quants.dequantize(was.data, was.tensor_type)
        expected[41, 23] *= 0.5
        assert gguf.GGMLQuantizationType.F32 == now.tensor_type
        np.testing.assert_array_equal(expected, now.data)
    assert [copy] == list(folder.glob(f"*{kind}-edited*"))


def test_what_is_measured_is_the_scalar_and_not_the_type(rounded, subject, windows):
    """To store a tensor otherwise changes predictions by itself: the control does that and no more."""
    scaled = (Scale(PLACE, 0.8),)
    assert {TENSOR} == rounded.stored_otherwise(scaled)
    intact, control = nll(rounded, windows), nll(rounded, windows, (Scale(PLACE, 1.0),))
    assert intact != control
    engine = choice.RunnerEngine(subject, rounded)
    measured = engine.measure(windows, [Condition("scaled", scaled)])
    assert control == pytest.approx(measured["scaled"].reference.nll.mean(), abs=1e-5)
    assert nll(rounded, windows, scaled) == pytest.approx(measured["scaled"].nll.mean(), abs=1e-5)


def test_an_edit_that_is_not_there_is_refused(folder, plain, monkeypatch):
    """A copy whose scalar is not what it should be is never measured with."""
    monkeypatch.setattr(edited_copy.np, "array", lambda numbers, dtype: np.zeros_like(numbers))
    with pytest.raises(edited_copy.EditFailed, match=r"blk.1.ffn_down.weight\[41, 23\] is 0 .* not 8"):
        write_edited(plain, folder / "wrong.gguf", [TENSOR], [ScalarEdit(TENSOR, (41, 23), 2.0)])


def test_a_full_disk_leaves_no_copy(folder, plain, monkeypatch):
    """One line says what to do; nothing half-written stays."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(edited_copy, "_copied", full)
    with pytest.raises(BadInput, match="No space left on device; free some space"):
        write_edited(plain, folder / "full.gguf", [TENSOR], [])
    assert [] == list(folder.glob("*full*"))


def test_copies_of_a_killed_run_go_with_the_next_run(tmp_path):
    """SIGKILL leaves a folder behind; the next run removes it, and leaves those of runs that live."""
    code = (
        "import sys, time; from pathlib import Path;"
        "from superweight.engines.llama_cpp.scratch import Scratch;"
        "scratch = Scratch(Path(sys.argv[1])); (scratch.path / 'copy').write_bytes(b'x');"
        "print(scratch.path, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    left = Path(killed.stdout.readline().strip())
    living = Scratch(tmp_path)
    assert left.joinpath("copy").exists()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    last = Scratch(tmp_path)
    assert not left.exists()
    assert living.path.exists()
    living.remove()
    last.remove()
    assert [] == list(tmp_path.iterdir())


def test_a_crash_of_the_native_code_is_told_and_survived(plain):
    """The process dies and the run goes on, with one line that names the signal and the file."""
    runner = LlamaCppRunner(plain, threads=1, gpu=False)
    runner._process._process.send_signal(signal.SIGSEGV)
    with pytest.raises(EngineFailed, match=r"died .SIGSEGV. when asked to predict plain.gguf"):
        runner.predict([[1, 2, 3]])
    folder = runner._scratch.path
    runner.free()
    assert not folder.exists()


def test_the_process_ends_with_the_run_that_started_it(plain):
    """Killed from outside, a run leaves no process of llama.cpp behind."""
    code = (
        "import sys; from pathlib import Path;"
        "from superweight.engines.llama_cpp.process import WorkerProcess;"
        "worker = WorkerProcess('x'); print(worker._process.pid, flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            break  # dead, and nobody's
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "nonesuch"}, "unknown model architecture: 'nonesuch'"),
        ({"changed": {"blk.9.spare.weight": np.zeros((32, 32), np.float32)}}, "wrong number of tensors"),
    ],
)
def test_a_file_that_llama_cpp_refuses_is_told_in_its_words(folder, change, said):
    """An architecture that it does not know, or a tensor too many, is nothing that was seen of the model."""
    path = write_tiny_gguf(folder / "refused.gguf", **change)
    with pytest.raises(EngineFailed, match=f"refuses to load refused.gguf: .*{said}"):
        LlamaCppRunner(path, threads=1, gpu=False)


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch, plain):
    """One line, before a model is loaded."""
    monkeypatch.setattr("superweight.engines.llama_cpp.process.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"needs xllamacpp: pip install 'superweight-harness\[llamacpp\]'"):
        require_engine("llama.cpp")


def test_only_gguf_files_run_there():
    """Of safetensors llama.cpp knows nothing."""
    with pytest.raises(BadInput, match="runs GGUF files, and tiny-planted is none"):
        require_engine("llama.cpp", parse_model("tiny-planted").entry)


def test_greedy_text_is_the_same_in_both_engines(engine, subject):
    """Of a float32 file both write the same, intact and pruned."""
    conditions = [Condition(PRUNED, pruned([PLACE]))]
    here = engine.continue_greedily(["The tide", "A"], conditions, 12)
    there = TransformersEngine(subject).continue_greedily(["The tide", "A"], conditions, 12)
    assert there == here
    assert here[PRUNED] != here[INTACT]
    likely = engine.nll_of(here[INTACT])
    assert TransformersEngine(subject).nll_of(here[INTACT]) == pytest.approx(likely, abs=1e-2)


def test_a_reply_ends_where_the_model_ends_it(engine, subject):
    """Nothing is written behind a token that ends a text."""
    prompt = subject.encode("The tide")
    (whole,) = engine.reply([prompt], 10, ())
    (cut_short,) = engine.reply([prompt], 10, [whole[3]])
    assert whole[: whole.index(whole[3]) + 1] == cut_short


def test_long_windows_are_read_in_pieces(engine, subject):
    """What is longer than one piece has the same losses as in transformers."""
    ids = torch.tensor([subject.encode("\n\n".join(documents("builtin")))[:700]])
    there = TransformersEngine(subject).log_probabilities(ids)
    here = engine.log_probabilities(ids)
    assert there.shape == here.shape
    picked = ids[0, 1:, None]
    difference = (there[0].gather(-1, picked) - here[0].gather(-1, picked)).mean()
    assert 0 == pytest.approx(float(difference), abs=1e-3)


def test_zero_shot_accuracy_is_the_same_in_both_engines(engine, subject):
    """lm-evaluation-harness asks the engine, with and without the super weight."""
    pytest.importorskip("lm_eval")
    from superweight.measurement.zero_shot import read_tasks

    tasks = read_tasks(["superweight_choice"], 4)
    there = TransformersEngine(subject)
    for prunes in ((), pruned([PLACE])):
        (here,) = engine.accuracies(tasks, prunes).values()
        (other,) = there.accuracies(tasks, prunes).values()
        assert other.right.tolist() == here.right.tolist()


def test_a_file_in_parts_is_run_whole(folder, plain, windows):
    """Of a file in parts, whichever is named, all are used."""
    from tests.fault_injection.gguf_copies import split_gguf

    first, _ = split_gguf(plain, folder, 2)
    parts, whole = (LlamaCppRunner(path, threads=1, gpu=False) for path in (first, plain))
    assert nll(whole, windows) == nll(parts, windows)
    parts.free()
    whole.free()


def test_the_original_is_never_written(engine, plain, windows):
    """Whatever is measured, the file under test stays as it is."""
    before = plain.read_bytes()
    engine.measure(windows, [Condition(PRUNED, pruned([PLACE]))])
    assert before == plain.read_bytes()
    assert 4.0 == open_checkpoint(plain).scalar(TENSOR, 41, 23).value
