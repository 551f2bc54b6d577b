"""Judge one model in several types in both engines, and write the table of docs/engines.md.

    python -m benchmarks engines [--model NAME] [--windows N] [--verdicts KIND,...] [--variants KIND,...]

Every type is made of the same numbers, those that the model's GGUF dequantises to. A row is kept as soon
as it is measured, in benchmarks/results/engines.json, and not measured again; --again forgets them.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from benchmarks.engine_files import KINDS, write_as
from benchmarks.page import put
from superweight.checkpoints.model_ref import parse_model
from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import fetch
from superweight.claims.run_config import RunConfig
from superweight.core.coordinates import Coordinate
from superweight.core.markdown import table
from superweight.engines.choice import load_engine
from superweight.engines.engine import ENGINES, LLAMA_CPP, Engine
from superweight.engines.in_transformers import TransformersEngine
from superweight.measurement.conditions import pruned
from superweight.measurement.corpus import Windows, cut, documents
from superweight.measurement.evaluate import token_nll
from superweight.model.loading import load
from superweight.model.subject import free
from superweight.release.compare import CompareRequest, compare

MODEL = "smollm2-135m-instruct-q4_1"
HERE = Path(__file__).parent
KEPT, PAGE = HERE / "results" / "engines.json", HERE.parent / "docs" / "engines.md"
BEGIN = "<!-- table: python -m benchmarks engines -->"

DESTROYED = "Q4_1, super weights' blocks destroyed"

Row = dict[str, Any]


def measured(
    engine: Engine, windows: Windows, places: tuple[Coordinate, ...], known: torch.Tensor | None
) -> Row:
    """Return perplexity, what the super weights carry, and the distance from ``known`` predictions."""
    ids = torch.from_numpy(windows.ids)
    begun = time.perf_counter()
    predicted = engine.log_probabilities(ids)
    seconds = time.perf_counter() - begun
    row = {
        "nll": float(token_nll(predicted, ids[:, 1:]).double().mean()),
        "carried": engine.rise_when_pruned(ids, pruned(places)) if places else None,
        "seconds": round(seconds, 2),
    }
    if known is not None:
        apart = (known.exp() * (known - predicted)).sum(-1)
        row["kl"] = float(apart.double().mean())
        row["same_top"] = float((known.argmax(-1) == predicted.argmax(-1)).double().mean())
    return row


class Bench:
    """One model's files in a folder, and the rows that are known of them."""

    def __init__(
        self, model: str, count: int, folder: Path, rows: dict[str, Row], keep: Callable[[], None]
    ) -> None:
        self._folder, self._rows, self._keep = folder, rows, keep
        entry = resolve(model)
        self._source = fetch(entry).path
        self.places = tuple(sorted(entry.coordinates))
        self._count = count
        self._first: dict[str, torch.Tensor] = {}

    def file(
        self,
        name: str,
        kind: str,
        stored: Mapping[str, str] | None = None,
        changed: Mapping[str, np.ndarray] | None = None,
    ) -> Path:
        """Return a file of some kind, written once."""
        path = self._folder / f"{name}.gguf"
        return path if path.exists() else write_as(self._source, path, kind, stored, changed)

    def row(self, name: str, path: Path) -> None:
        """Measure a file in both engines; the first is what the others' distance is from."""
        first = not self._first
        if name in self._rows and not first:
            return
        subject = load(parse_model(str(path)).entry, device="cpu")
        windows = cut(subject, documents("builtin"), "builtin").shuffled()
        some = replace(windows, ids=windows.ids[: self._count])
        here = TransformersEngine(subject)
        there = load_engine(LLAMA_CPP, subject, "builtin", device="cpu")
        row: Row = {"bytes": path.stat().st_size}
        for engine in (here, there):
            row[engine.name] = measured(engine, some, self.places, self._first.get(engine.name))
            if first:
                self._first[engine.name] = engine.log_probabilities(torch.from_numpy(some.ids))
        ids = torch.from_numpy(some.ids)
        apart = [token_nll(engine.log_probabilities(ids), ids[:, 1:]).double() for engine in (here, there)]
        row["engines_apart"] = float((apart[0] - apart[1]).mean())
        row["engines_apart_most"] = float((apart[0] - apart[1]).abs().max())
        there.free()
        free(subject)
        self._rows[name] = row
        self._keep()
        print(name, json.dumps(row), flush=True)

    def verdict(self, base: Path, name: str, path: Path) -> None:
        """Compare a file with a base in each engine, at every depth."""
        for engine in ENGINES:
            verdicts = self._rows.setdefault(name, {}).setdefault("verdicts", {})
            if engine in verdicts:
                continue
            asked = CompareRequest(
                parse_model(str(base)),
                parse_model(str(path)),
                run_config=RunConfig(device="cpu", engine=engine),
            )
            result = compare(asked)
            worst = next(iter(result.reasons), "")
            verdicts[engine] = {"verdict": result.verdict, "headline": result.headline, "reason": worst}
            self._keep()
            print(name, engine, verdicts[engine], flush=True)


def variants(kind: str, places: tuple[Coordinate, ...]) -> dict[str, dict[str, str]]:
    """Return, by the name of a variant, which tensors are stored in F16 in it."""
    layers = sorted({place.layer for place in places})
    return {
        f"{kind}, super weights' tensor F16": {f"blk.{layer}.ffn_down.weight": "F16" for layer in layers},
        f"{kind}, what makes its inputs F16": {
            f"blk.{layer}.{part}.weight": "F16" for layer in layers for part in ("ffn_gate", "ffn_up")
        },
    }


def destroyed(source: Path, places: tuple[Coordinate, ...]) -> dict[str, np.ndarray]:
    """Return the super weights' tensors with the blocks of 32 that hold them set to zero."""
    reader = gguf.GGUFReader(source)
    found = {}
    for tensor in reader.tensors:
        for place in places:
            if tensor.name == f"blk.{place.layer}.ffn_down.weight":
                numbers = found.setdefault(
                    tensor.name, np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
                )
                begin = place.col // 32 * 32
                numbers[place.row, begin : begin + 32] = 0
    return found


def as_table(rows: Mapping[str, Row]) -> list[str]:
    """Return the rows of the page."""
    head = ("file", "MB", "perplexity", "KL from F16", "carried, nats", "verdict", "between the engines")
    lines = []
    for name, row in rows.items():
        if "bytes" not in row:
            continue
        cells = [name, f"{row['bytes'] / 1e6:.0f}"]
        cells.append(" / ".join(f"{math.exp(row[engine]['nll']):.2f}" for engine in ENGINES))
        cells.append(
            " / ".join(f"{row[engine]['kl']:.4f}" if "kl" in row[engine] else "-" for engine in ENGINES)
        )
        cells.append(" / ".join(f"{row[engine]['carried']:.2f}" for engine in ENGINES))
        verdicts = row.get("verdicts", {})
        told = [verdicts[engine]["headline"] if engine in verdicts else "-" for engine in ENGINES]
        cells.append(" / ".join(told) if verdicts else "-")
        cells.append(f"{row['engines_apart']:+.5f} ({row['engines_apart_most']:.3f})")
        lines.append(tuple(cells))
    return table(head, lines)


def equal(model: str, count: int) -> None:
    """Print the loss of a model's numbers in float32 in both engines, and how far they are apart."""
    with tempfile.TemporaryDirectory() as scratch:
        path = write_as(fetch(parse_model(model).entry).path, Path(scratch) / "F32.gguf", "F32")
        subject = load(parse_model(str(path)).entry, device="cpu")
        windows = cut(subject, documents("builtin"), "builtin").shuffled()
        ids = torch.from_numpy(windows.ids[:count])
        there = load_engine(LLAMA_CPP, subject, "builtin", device="cpu")
        losses = [
            token_nll(engine.log_probabilities(ids), ids[:, 1:]).double()
            for engine in (TransformersEngine(subject), there)
        ]
        there.free()
    apart = losses[0] - losses[1]
    words = ", ".join(f"{name} {float(loss.mean()):.5f}" for name, loss in zip(ENGINES, losses, strict=True))
    most = f"{float(apart.mean()):+.2e} a token, {float(apart.abs().max()):.3f} at most"
    print(f"{Path(model).name}: {words}: {most}", flush=True)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks engines", description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--verdicts", default="", help="types to be compared with F16, separated by commas")
    parser.add_argument("--variants", default="", help="types with parts in F16, separated by commas")
    parser.add_argument("--equal", nargs="+", help="only say how far a model's F32 file is apart in both")
    parser.add_argument("--again", action="store_true", help="measure what is known as well")
    chosen = parser.parse_args(words)
    if chosen.equal:
        for model in chosen.equal:
            equal(model, chosen.windows)
        return
    known: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() and not chosen.again else {}
    about = {"model": chosen.model, "windows": chosen.windows}
    rows: dict[str, Row] = known["rows"] if known.get("about") == about else {}

    def keep() -> None:
        KEPT.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")
        text = "\n".join(as_table(rows))
        put(text, PAGE, BEGIN)

    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(chosen.model, chosen.windows, Path(scratch), rows, keep)
        base = bench.file("F16", "F16")
        bench.row("F16", base)
        for kind in ("F32", *KINDS[1:]):
            bench.row(kind, bench.file(kind, kind))
        source = bench.file("F32", "F32")
        bench.row(DESTROYED, bench.file("destroyed", "Q4_1", None, destroyed(source, bench.places)))
        for name in filter(None, chosen.verdicts.split(",")):
            kept = DESTROYED if name == "destroyed" else name
            bench.verdict(base, kept, bench.file(name, name))
        for kind in filter(None, chosen.variants.split(",")):
            for name, stored in variants(kind, bench.places).items():
                bench.row(name, bench.file(name.replace(" ", "-"), kind, stored))
    print("\n".join(as_table(rows)))
