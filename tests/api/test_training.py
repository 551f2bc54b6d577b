"""Super weights watched in training: drift is read, activations are run, a ruinous run is stopped."""

from __future__ import annotations

from types import SimpleNamespace

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
    options = {"weight_decay": 0.0, "max_steps": 30, "report_to": [], "logging_steps": 1000, **options}
    args = transformers.TrainingArguments(
        output_dir=str(folder),
        learning_rate=rate,
        per_device_train_batch_size=4,
        use_cpu=True,
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


def test_a_trainers_own_loss_is_logged_beside_the_figures(model, tmp_path):
    """At the same step: what the callback logs does not take the Trainer's turn, nor do two bindings."""
    callback = SuperWeightCallback([AT], every=5)
    trainer = trained(model, tmp_path / "logged", callback, 1e-5, max_steps=10, logging_steps=5)
    history = trainer.state.log_history
    assert [5, 10] == [row["step"] for row in history if "loss" in row]
    assert [5, 10] == [row["step"] for row in history if DRIFT in row]
    before = list(trainer.callback_handler.callbacks)
    callback.bind(trainer)
    assert before == trainer.callback_handler.callbacks


def test_a_callback_without_loggers_says_so(model, tmp_path, caplog):
    """The Trainer hands no callback its loggers: the figures would be in none of them."""
    callback = SuperWeightCallback([AT])
    with caplog.at_level("WARNING", "superweight"):
        callback.on_train_begin(
            transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to=[]), *[None] * 2, model
        )
        assert not caplog.messages
        args = SimpleNamespace(report_to=["tensorboard"])
        callback.on_train_begin(args, None, None, model)
    assert [
        "super weights are watched, and logged by none of tensorboard: call bind(trainer)"
    ] == caplog.messages


def test_tensorboard_gets_every_figure(model, tmp_path, monkeypatch):
    """Read back from its event file: transformers puts train/ before every tag."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    callback = SuperWeightCallback([AT], every=1, run_every=2, prompt="The tide")
    trained(model, tmp_path / "out", callback, 1e-3, max_steps=4, report_to=["tensorboard"])
    read = accumulator.EventAccumulator(str(next((tmp_path / "events").rglob("events*")).parent))
    read.Reload()
    scalars = {tag: read.Scalars(tag) for tag in read.Tags()["scalars"] if "superweight/" in tag}
    names = {name for reading in callback.watched.readings for name in reading.figures}
    assert {f"train/{name}" for name in names} == set(scalars)
    assert {"superweight/activation", "superweight/head_room", "superweight/prompt_loss", DRIFT} <= names
    told = {event.step: event.value for event in scalars[f"train/{DRIFT}"]}
    assert {r.step: pytest.approx(r.figures[DRIFT]) for r in callback.watched.readings} == told


def test_wandb_gets_every_figure(model, tmp_path, monkeypatch):
    """In a run that is kept on this machine: the last value of each, as transformers names them."""
    wandb = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    callback = SuperWeightCallback([AT], every=1, run_every=2, prompt="The tide")
    trained(model, tmp_path / "out", callback, 1e-3, max_steps=4, report_to=["wandb"])
    told = dict(wandb.run.summary)
    wandb.finish()
    last = callback.watched.readings[-1].figures
    assert {
        "superweight/activation",
        "superweight/head_room",
        "superweight/prompt_loss",
        DRIFT,
    } <= last.keys()
    assert {name: told[f"train/{name}"] for name in last} == pytest.approx(last)


def test_trl_trains_with_the_callback(model, tmp_path, monkeypatch):
    """SFTTrainer is a Trainer: its figures and its own averages are logged, each for itself."""
    # Its telemetry; huggingface_hub reads the variable when it is imported, which is long ago.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    tokenizer = transformers.AutoTokenizer.from_pretrained(local_path(resolve("tiny-planted")))
    tokenizer.pad_token = tokenizer.bos_token
    tokenizer.eos_token = tokenizer.bos_token
    args = trl.SFTConfig(
        output_dir=str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=2,
        use_cpu=True,
        report_to=[],
        logging_steps=2,
        save_strategy="no",
        disable_tqdm=True,
        max_length=32,
        learning_rate=1e-3,
        bf16=False,
    )
    texts = datasets.Dataset.from_dict({"text": ["The tide comes in twice a day."] * 16})
    trainer = trl.SFTTrainer(model=model, args=args, train_dataset=texts, processing_class=tokenizer)
    callback = SuperWeightCallback([AT], every=2, run_every=2, prompt="The tide").bind(trainer)
    trainer.train()
    assert [2, 4] == [reading.step for reading in callback.watched.readings]
    history = trainer.state.log_history
    assert [2, 4] == [row["step"] for row in history if DRIFT in row]
    assert [2, 4] == [row["step"] for row in history if "mean_token_accuracy" in row and "loss" in row]
    assert not any("mean_token_accuracy" in row for row in history if DRIFT in row)


@pytest.mark.parametrize("lora", [False, True])
def test_autocast_and_checkpointing_leave_what_is_read(model, tmp_path, lora):
    """In bfloat16, with gradient checkpointing: head-room of what is computed in, and the merged value."""
    if lora:
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["down_proj"]))
    callback = SuperWeightCallback([AT], every=1, run_every=1, prompt="The tide")
    chosen = {"bf16": True, "gradient_checkpointing": True, "max_steps": 4}
    trained(model, tmp_path, callback, 1e-2, **chosen)
    last = callback.watched.readings[-1].figures
    assert torch.bfloat16 == callback.watched.before.dtype
    assert last["superweight/activation"] / torch.finfo(torch.bfloat16).max == last["superweight/head_room"]
    whole = model.merge_and_unload() if lora else model
    value = float(down(whole).weight[41, 23])
    assert value == pytest.approx(last[f"superweight/{AT}/value"], rel=1e-5)
    assert value != 4.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_loop_under_autocast_has_the_head_room_of_its_dtype(model, dtype):
    """Named to `watch`, or at work around the step; float16 holds 65504, of which 172.6 are 0.26 %."""
    prompt = torch.tensor([[256, 65, 66]])
    named = watch(model, [AT], prompt=prompt, run_every=1, autocast=dtype).step(0).figures
    watched = watch(model, [AT], prompt=prompt, run_every=1)
    assert torch.float32 == watched.before.dtype
    with torch.autocast("cpu", dtype):
        around = watched.step(0).figures
        loss = model(input_ids=prompt, labels=prompt).loss
    loss.backward()
    assert named == around
    assert 172.6 / torch.finfo(dtype).max == pytest.approx(named["superweight/head_room"], rel=0.01)
    assert 0 < float(down(model).weight.grad.abs().max())


def test_float16_runs_out_of_room(model):
    """A super activation of 60,000 takes 92 % of what float16 holds, and nearly nothing of bfloat16."""
    prompt = torch.tensor([[256, 65, 66]])
    with torch.no_grad():
        down(model).weight[41, 23] *= 60_000 / 172.6
    reasons = watch(model, [AT], prompt=prompt, autocast=torch.float16).step(0).reasons
    assert [True] == ["of what float16 holds" in reason for reason in reasons]
    assert () == watch(model, [AT], prompt=prompt, autocast=torch.bfloat16).step(0).reasons


def test_each_module_keeps_its_own_mode(model):
    """A block that a loop left in evaluation, among others in training, is still in evaluation."""
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    watch(model, [AT], prompt=torch.tensor([[256, 65]]), run_every=1).step(0)
    assert modes == [module.training for module in model.modules()]


def test_the_activation_is_held_to_what_it_was_before_the_first_step(model):
    """Not to the first reading, which may be of a model that is ruined already."""
    watched = watch(model, [AT], prompt=torch.tensor([[256, 65, 66]]), run_every=100)
    with torch.no_grad():
        down(model).weight[41, 23] *= 0.5
    assert any("0.5 times what it was" in reason for reason in watched.step(100).reasons)


def test_a_prompts_perplexity_is_held_to_its_beginning(model):
    """Of 127 tokens of its own; a head that says the opposite raises it. Of three, chance is."""
    with torch.no_grad():
        text = model.generate(torch.tensor([[256]]), do_sample=False, max_new_tokens=127, min_new_tokens=127)
    watched, few = (watch(model, [AT], prompt=part, run_every=1) for part in (text, text[:, :4]))
    free = watch(model, [AT], prompt=text, run_every=1, rise=None)
    assert () == watched.step(0).reasons
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    (reason,) = watched.step(1).reasons
    assert "the prompt's perplexity is" in reason
    assert () == few.step(1).reasons == free.step(1).reasons
    assert few.readings[0].figures["superweight/prompt_loss"] > few.before.loss
    with pytest.raises(BadInput, match=r"rise=0\.5: give a factor above 1"):
        watch(model, [AT], prompt=text, rise=0.5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda peft: peft.LoraConfig(r=2, target_modules=["down_proj"], use_dora=True), "adapter DoRA"),
        (
            lambda peft: peft.IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"]),
            "Linear",
        ),
    ],
)
def test_an_adapter_that_is_not_known_is_refused(model, make, words):
    """The value would be another than the model computes with."""
    peft = pytest.importorskip("peft")
    with pytest.raises(BadInput, match=f"{words} adds to a number is not known"):
        watch(peft.get_peft_model(model, make(peft)), [AT])


def test_a_quantised_weight_is_refused(model):
    """It does not train, and its stored numbers are codes."""
    down(model).weight = torch.nn.Parameter(torch.zeros(64, 160, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(BadInput, match=r"quantised \(torch.uint8\)"):
        watch(model, [AT])
