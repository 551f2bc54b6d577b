"""Big files, small machines: a 7B-shaped checkpoint on disk, scanned through accelerate's offload."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from benchmarks.timing import Row, aimed, in_turn, ratios, spread
from superweight.checkpoints.registry import resolve
from superweight.detection.scan import scan
from superweight.measurement.conditions import controls, treatments
from superweight.measurement.corpus import cut, documents
from superweight.measurement.evaluate import measure
from superweight.model.architecture import inspect_architecture
from superweight.model.subject import Provenance, Subject

SHAPE = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 32000}
# The paper's coordinate in Llama-7B.
LAYER, ROW, COL = 2, 3968, 7003
BLOCKS = (4, 8, 16, 32)
# Sixteen tokens of the tiny models' tokenizer, which has one for each byte; a tokenizer of words makes
# eleven of the default prompt.
TEXT = "The old bridge."


def write_checkpoint(directory: Path, blocks: int) -> None:
    """Write a random checkpoint of a 7B model's shape, one shard a block, with one planted scalar."""
    tokens = resolve("tiny-planted")
    for file in (tokens.root / tokens.source).glob("tokenizer*"):
        shutil.copy(file, directory)
    LlamaConfig(num_hidden_layers=blocks, dtype="bfloat16", **SHAPE).save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    hidden, wide, vocabulary = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["vocab_size"]
    generator = torch.Generator().manual_seed(7)

    def matrix(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)

    ends = {
        "model.embed_tokens.weight": matrix(vocabulary, hidden),
        "lm_head.weight": matrix(vocabulary, hidden),
    }
    shards = [{**ends, "model.norm.weight": torch.ones(hidden, dtype=torch.bfloat16)}]
    index: dict[str, str] = {}
    for number in range(blocks + 1):
        if number:
            prefix = f"model.layers.{number - 1}."
            tensors = {f"{prefix}self_attn.{name}_proj.weight": matrix(hidden, hidden) for name in "qkvo"}
            tensors |= {f"{prefix}mlp.{name}_proj.weight": matrix(wide, hidden) for name in ("gate", "up")}
            tensors[f"{prefix}mlp.down_proj.weight"] = down = matrix(hidden, wide)
            for name in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"{prefix}{name}.weight"] = torch.ones(hidden, dtype=torch.bfloat16)
            if number - 1 == LAYER:
                down[ROW, COL] = 2e4
            shards = [tensors]
        name = f"model-{number:05d}.safetensors"
        save_file(shards[0], directory / name, {"format": "pt"})
        index |= dict.fromkeys(shards[0], name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def open_offloaded(directory: Path, dtype: torch.dtype = torch.bfloat16) -> Subject:
    """Return the checkpoint as a subject whose blocks and head stay on disk."""
    blocks = json.loads((directory / "config.json").read_text())["num_hidden_layers"]
    places = {"model.embed_tokens": "disk", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"}
    places |= {f"model.layers.{layer}": "disk" for layer in range(blocks)}
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, device_map=places, offload_folder=directory / "offload"
    )
    model.eval().requires_grad_(False)
    entry = resolve(str(directory))
    unknown = Provenance("", None, "", "", 0, "cpu", "bfloat16", True, "", "", "", "")
    return Subject(
        "7B-shaped",
        entry,
        model,
        AutoTokenizer.from_pretrained(directory),
        inspect_architecture(model),
        unknown,
    )


def anonymous_bytes() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    return 0


class Peak(threading.Thread):
    """The most private memory, not counting what the page cache holds, while something runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.running = 0, True

    def run(self) -> None:
        while self.running:
            self.most = max(self.most, anonymous_bytes())
            time.sleep(0.02)

    def stop(self) -> None:
        self.running = False
        self.join()


def measure_one(directory: Path) -> dict[str, Any]:
    """Scan one checkpoint beside a bare offloaded forward pass; for a process of its own."""
    subject = open_offloaded(directory)
    ids = torch.tensor([subject.encode(TEXT)])

    def bare() -> None:
        with torch.no_grad():
            subject.model(input_ids=ids, use_cache=False)

    peak = Peak()
    peak.start()
    result = scan(subject, TEXT)
    peak.stop()
    seconds = in_turn({"bare": bare, "scan": lambda: scan(subject, TEXT)}, 3)
    ratio = ratios(seconds, "scan", "bare")
    return {
        "found": [str(place) for place in result.coordinates],
        "passes": result.passes,
        "gigabytes": peak.most / 1e9,
        "ratio": str(ratio),
        "median_ratio": ratio.median,
        "bare": spread(seconds["bare"]).median,
        "scan": spread(seconds["scan"]).median,
    }


def measure_conditions(directory: Path) -> dict[str, Any]:
    """Count how often a look reads the file, for one condition and for all; for a process of its own."""
    subject = open_offloaded(directory)
    found = scan(subject, TEXT)
    every = [*treatments(found), *controls(subject, found)]
    windows = cut(subject, documents("builtin"), "builtin", count=8)
    passes: list[int] = []
    # The weights of a block are brought once a call. Edits are proven by probes, of a few matrices.
    subject.architecture.blocks[-1].register_forward_hook(lambda *_: passes.append(1))
    counted = {}
    for name, conditions in {"one": every[:1], "all": every}.items():
        passes.clear()
        before = time.perf_counter()
        measure(subject, windows, conditions)
        counted[name] = {"passes": len(passes), "seconds": time.perf_counter() - before}
    return {"conditions": len(every), **counted}


def _in_own_process(function: str, directory: str) -> dict[str, Any]:
    code = (
        f"import json,pathlib,sys; from benchmarks.offloading import {function}; "
        f"print(json.dumps({function}(pathlib.Path(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, directory], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def rows(blocks: tuple[int, ...] = BLOCKS) -> list[Row]:
    """Return the lines on offloaded checkpoints, one a number of blocks."""
    group, found = "big files", []
    for count in blocks:
        with tempfile.TemporaryDirectory() as name:
            write_checkpoint(Path(name), count)
            size = sum(file.stat().st_size for file in Path(name).glob("*.safetensors")) / 1e9
            seen = _in_own_process("measure_one", name)
            looked = _in_own_process("measure_conditions", name) if count == blocks[0] else None
        what = f"{count} blocks, {size:.3g} GB"
        scanned = f"{what}: scan, {seen['passes']} passes, over a bare offloaded pass; found {seen['found']}"
        found += [
            aimed(group, scanned, seen["median_ratio"], most=1.3, figure=seen["ratio"]),
            Row(
                group,
                f"{what}: seconds of the bare pass, of the scan",
                f"{seen['bare']:.3g}, {seen['scan']:.3g}",
            ),
            aimed(group, f"{what}: gigabytes of private memory", seen["gigabytes"], most=1.5),
        ]
        if looked is not None:
            found += _looks(group, what, looked)
    return found


def _looks(group: str, what: str, looked: dict[str, Any]) -> list[Row]:
    one, every, count = looked["one"], looked["all"], looked["conditions"]
    told = f"{what}: passes over the file in a look of 8 windows, for {count} conditions over those for one"
    seconds = f"{what}: seconds of that look, for one condition and for {count}"
    return [
        aimed(group, told, every["passes"] / one["passes"], most=1),
        Row(group, seconds, f"{one['seconds']:.3g}, {every['seconds']:.3g}"),
    ]
