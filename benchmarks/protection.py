"""What protecting the super weights buys of the real model, at the harshest setting that each tool offers.

    python -m benchmarks protection

Each tool rounds SmolLM2-135M plainly and as `superweight protect` tells it; perplexity is on the first
windows of the corpus, size that of the weights' files. What was measured is written to the package, where
`superweight protect` reads it, and into the table of docs/protect.md.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

from benchmarks.engine_files import write_as
from benchmarks.gate import MODEL, WORK, base_folder
from benchmarks.quantisers import QUANTISERS, llm_compressor_awq
from superweight import remedy
from superweight.checkpoints.model_ref import parse_model
from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import fetch
from superweight.claims.run_config import RunConfig
from superweight.core.markdown import rewritten_between, table
from superweight.measurement.corpus import BUILTIN, cut, documents
from superweight.measurement.evaluate import perplexity
from superweight.model.loading import load
from superweight.remedy.protect import protect
from superweight.remedy.recipes import tool

RESULTS = Path(str(remedy.__file__)).parent / "measured.json"
PAGE = Path(__file__).parents[1] / "docs" / "protect.md"
BEGIN, END = "<!-- protect: begin -->", "<!-- protect: end -->"
WINDOWS = 12
# Bits and group, 0 for a scale a row: the coarsest that each tool takes and the reader reads.
HARSHEST = {
    "llama.cpp": (2, 0, "Q2_K, by llama-quantize"),
    "auto-round": (2, 64, "2 bits, groups of 64, to the nearest"),
    "gptqmodel": (2, 64, "2 bits, groups of 64"),
    "auto-awq": (4, 0, "int4, a scale a row, by llm-compressor"),
    "llm-compressor": (4, 0, "int4, a scale a row"),
    "bitsandbytes": (4, 64, "nf4, blocks of 64 (it has no coarser)"),
    "mlx": (2, 64, "2 bits, groups of 64"),
    "hqq": (2, 0, "2 bits, a group a row"),
    "torchao": (4, 0, "int4, a scale a row"),
    "optimum-quanto": (2, 0, "qint2"),
}


def measured(folder: Path) -> float:
    model = next(folder.glob("*.gguf"), folder)
    subject = load(resolve(str(model)), device="cpu")
    return perplexity(subject, cut(subject, documents(BUILTIN), BUILTIN, count=WINDOWS))


def size(folder: Path) -> int:
    return sum(file.stat().st_size for end in ("safetensors", "gguf") for file in folder.glob(f"*.{end}"))


def by_llama_quantize(source: Path, target: Path, settings: dict[str, Any], bits: int, group: int) -> None:
    """Write the model's GGUF file as llama.cpp's own program rounds it, which must be on the PATH."""
    whole = write_as(fetch(resolve(MODEL)).path, WORK / "F32.gguf", "F32")
    options = [word for pair in settings.get("tensor_type", []) for word in ("--tensor-type", pair)]
    target.mkdir()
    command = ["llama-quantize", *options, str(whole), str(target / "model.gguf"), f"Q{bits}_K"]
    subprocess.run(command, check=True, capture_output=True)
    whole.unlink()


TOOLS = {**QUANTISERS, "llama.cpp": by_llama_quantize, "auto-awq": llm_compressor_awq}


def run() -> dict[str, Any]:
    """Measure each tool that is not in the results yet."""
    base = base_folder()
    document: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    tools: dict[str, Any] = document["tools"]
    intact = measured(base)
    for name, (bits, group, setting) in HARSHEST.items():
        if name in tools:
            continue
        row: dict[str, Any] = {"model": MODEL, "setting": setting, "windows": WINDOWS, "intact": intact}
        settings = protect(parse_model(f"{MODEL}={base}"), tool(name), RunConfig()).recipe
        try:
            for how, told in (("plain", {}), ("protected", settings.settings if settings else {})):
                folder = WORK / f"protection-{how}"
                shutil.rmtree(folder, ignore_errors=True)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    TOOLS[name](base, folder, told, bits, group)
                row |= {how: measured(folder), f"{how}_bytes": size(folder)}
                shutil.rmtree(folder, ignore_errors=True)
        # A library raises what it likes; the table has what could be measured.
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            continue
        tools[name] = row
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(name, row, flush=True)
    return tools


def as_markdown(tools: dict[str, Any]) -> str:
    columns = ("tool", "setting", "perplexity, plain", "protected", "size, plain", "protected")
    rows = [
        (
            name,
            row["setting"],
            f"{row['plain']:,.2f}",
            f"{row['protected']:,.2f}",
            f"{row['plain_bytes'] / 1e6:.1f} MB",
            f"{row['protected_bytes'] / 1e6:.1f} MB",
        )
        for name, row in tools.items()
    ]
    intact = next(iter(tools.values()))["intact"]
    lines = [f"Unquantised: perplexity {intact:.2f} on {WINDOWS} windows.", "", *table(columns, rows)]
    return "\n".join(["", *lines, ""])


def main(options: list[str]) -> None:
    """Measure what is missing, and write the table into the page."""
    if options:
        raise SystemExit(f"no option {options[0]}; there is none")
    body = as_markdown(run())
    if PAGE.is_file():
        PAGE.write_text(rewritten_between(PAGE, BEGIN, END, body), encoding="utf-8")
    print(body)
