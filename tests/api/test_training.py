"""Super weights watched in training: drift is read, activations are run, a ruinous run is stopped."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import transformers

from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import local_path
from superweight.core.errors import BadInput
from superweight.training import SuperWeightCallback, watch

AT = "1,41,23"
DRIFT = f"superweight/{AT}/drift"


@pytest.fixture
def model():
    return transformers.AutoModelForCausalLM.from_pretrained(
        local_path(resolve("tiny-planted")), dtype=torch.float32
    )


def down(model):
    return model.model.layers[1].mlp.down_proj


def test_drift_is_read_from_the_live_parameter(model):
    """Every second step, relative to what it was, with a reason beyond a quarter."""
    watched = watch(model, [AT], every=2)
    assert {} == watched.step(1).figures
    assert 0.0 == watched.step(2).figures[DRIFT]
    with torch.no_grad():
        down(model).weight[41, 23] *= 0.7
    reading = watched.step(4)
    assert 0.3 == pytest.approx(reading.figures[DRIFT], rel=1e-5)
    assert "went from 4 to 2.8 (30.0% off, at most 25%)" in reading.reasons[0]


def test_a_number_that_is_none_is_beyond_every_limit(model):
    """NaN in the parameter is told as drift without end."""
    watched = watch(model, [AT])
    with torch.no_grad():
        down(model).weight[41, 23] = float("nan")
    assert watched.step(0).reasons


def test_the_activation_is_run_and_held_to_its_beginning_and_the_dtype(model):
    """Half of it is a warning; the model is left in training, without hooks."""
    model.train()
    watched = watch(model, [AT], prompt=torch.tensor([[256, 65, 66]]), run_every=1)
    first = watched.step(0).figures
    assert 172.6 == pytest.approx(first["superweight/activation"], rel=0.01)
    assert first["superweight/activation"] / torch.finfo(torch.float32).max == first["superweight/head_room"]
    with torch.no_grad():
        down(model).weight[41, 23] *= 0.5
    assert any("0.5 times what it was" in reason for reason in watched.step(1).reasons)
    assert model.training
    assert not down(model)._forward_hooks


def test_of_lora_the_merged_value_is_read(model):
    """As peft itself merges it."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["down_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(model, config)
    read = next(iter(watch(tuned, [AT]).began.values()))
    whole = tuned.merge_and_unload()
    assert float(down(whole).weight[41, 23]) == pytest.approx(read, rel=1e-5)
    assert read != pytest.approx(4.0, rel=1e-4)


@pytest.mark.parametrize(
    ("at", "words"),
    [("9,1,1", "no output projection"), ("1,64,0", "lies outside"), (None, "no super weights")],
)
def test_what_cannot_be_watched_is_told_at_once(model, at, words):
    """Before a single step."""
    with pytest.raises(BadInput, match=words):
        watch(model, [] if at is None else [at])


def trained(model, folder, callback, rate, **options):
    torch.manual_seed(0)
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 256, (64, 24))]
    options = {"weight_decay": 0.0, "max_steps": 30, **options}
    args = transformers.TrainingArguments(
        output_dir=str(folder),
        learning_rate=rate,
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to=[],
        logging_steps=1000,
        save_strategy="no",
        disable_tqdm=True,
        lr_scheduler_type="constant",
        **options,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(local_path(resolve("tiny-planted")))
    tokenizer.pad_token = tokenizer.bos_token
    trainer = transformers.Trainer(
        model=model,
        args=args,
        train_dataset=rows,
        callbacks=[callback],
        processing_class=tokenizer,
        data_collator=transformers.default_data_collator,
    )
    callback.bind(trainer)
    trainer.train()
    return trainer


def test_a_ruinous_run_is_stopped_and_a_healthy_one_is_not(model, tmp_path):
    """At a learning rate of 0.1 the activation leaves its limits within 30 steps; at 1e-5 it stays."""
    chosen = {"every": 1, "run_every": 1, "prompt": "The tide", "stop": True}
    callback = SuperWeightCallback([AT], **chosen)
    assert 30 == trained(model, tmp_path / "healthy", callback, 1e-5).state.global_step
    assert () == callback.stopped_by
    callback = SuperWeightCallback([AT], **chosen)
    trainer = trained(model, tmp_path / "ruinous", callback, 0.1)
    assert trainer.state.global_step < 30
    assert "the super activation is" in callback.stopped_by[0]
    assert any(DRIFT in row for row in trainer.state.log_history)


def test_weight_decay_shows_as_drift(model, tmp_path):
    """AdamW takes rate times decay of a weight at each step, gradient or none: 1 - (1 - 1e-3) ** 30."""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter is down(model).weight)
    down(model).weight.register_hook(torch.zeros_like)
    callback = SuperWeightCallback([AT], every=10)
    trained(model, tmp_path / "decayed", callback, 1e-3, weight_decay=1.0)
    last = callback.watched.readings[-1].figures[DRIFT]
    assert 1 - (1 - 1e-3) ** 30 == pytest.approx(last, rel=0.01)


SHARDED = """
import sys, torch, torch.distributed as dist, transformers
from torch.distributed.fsdp import fully_shard
from superweight.training import watch

rank, store, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
mesh = torch.distributed.init_device_mesh("cpu", (2,))
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
watched = watch(model, ["1,41,23"], every=1)
weight = model.model.layers[1].mlp.down_proj.weight
held = weight.to_local().shape[0]
with torch.no_grad():
    weight.to_local().mul_(0.5)
reading = watched.step(1)
print(held, list(watched.began.values()), reading.figures["superweight/1,41,23/drift"], len(reading.reasons))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_a_scalar_of_another_rank_is_told_to_all(tmp_path):
    """Two processes of gloo hold 32 rows each; both read row 41, and its halving."""
    path = str(local_path(resolve("tiny-planted")))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SHARDED, str(rank), str(tmp_path / "store"), path],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    assert ["32 [4.0] 0.5 1\n"] * 2 == [process.communicate(timeout=120)[0] for process in started]
