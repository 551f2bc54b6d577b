"""Whether the gate tells good from bad: releases of the real model, judged at every depth.

    python -m benchmarks gate [--truth] [--backwards] [--files] [--table]

Each release is made, measured plainly (`gate_truth`), and judged by `superweight compare`. What
came of it is kept in ``results/gate/`` as soon as it is known, one file a release, and not done again:
remove a file, or its part ``judged``, to have that done anew. ``--truth`` stops after the truth,
``--backwards`` begins with the last, so that two can be at work,
``--files`` judges the files alone anew, and ``--table`` only writes the table.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from benchmarks import gate_table, gate_truth
from benchmarks.gate_damaged import BETWEEN, BROKEN
from benchmarks.gate_draft import draft
from benchmarks.gate_sound import SOUND, Change
from benchmarks.gate_tuning import TUNINGS, tuned_tensors
from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import fetch
from superweight.model.gguf_conversion import converted_copy

MODEL = "smollm2-135m-instruct-q4_1"
KEPT = Path(__file__).parent / "results" / "gate"
WORK = Path(os.environ.get("SW_GATE_WORK", Path(tempfile.gettempdir()) / "superweight-gate"))
# What the checks of the files are numbered; raised where they see more than before.
FILES = 2
Row = dict[str, Any]


def releases() -> Iterator[tuple[str, str, Change]]:
    """Yield kind, name and what makes it, the kinds in turn so that a part of all is a sample."""
    kinds = {"sound": SOUND, "broken": BROKEN, "between": BETWEEN}
    turns = zip_longest(*([(kind, *item) for item in made.items()] for kind, made in kinds.items()))
    return (item for item in chain.from_iterable(turns) if item is not None)


def kept(name: str) -> Path:
    return KEPT / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


def read(name: str) -> Row:
    file = kept(name)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def keep(name: str, row: Row) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    # Messages name the release by where it lay on this machine.
    text = re.sub(rf"{re.escape(str(WORK))}/release-\d+", "RELEASE", json.dumps(row, indent=1))
    kept(name).write_text(text + "\n", encoding="utf-8")


def base_folder() -> Path:
    return converted_copy(fetch(resolve(MODEL)).path)


def made(change: Change, base: Path, *, lent: bool) -> Path:
    """Write a release into the work folder, over the one before."""
    given = draft(base)
    if lent:
        given.lent = {which: tuned_tensors(base, which, WORK) for which in TUNINGS}
    change(given)
    return given.write(WORK / f"release-{os.getpid()}")


def _is_lent(name: str) -> bool:
    return any(word in name for word in ("fine-tune", "LoRA"))


def _is_about_chat(name: str) -> bool:
    """Writing answers takes as long as all the rest, and only these bear on it alone."""
    return any(word in name for word in ("chat", "EOS", "end-of-text", "q weight"))


def run(*, truth_only: bool = False, backwards: bool = False, start: int = 0) -> None:
    """Make, measure and judge whatever is not yet in ``results/gate``."""
    base = base_folder()
    reference = read("the base")
    if not reference:
        reference = {"truth": gate_truth.measured(base, chats=True)}
        keep("the base", reference)
    judge = None
    every = list(releases())
    every = every[start:] + every[:start]
    for kind, name, change in reversed(every) if backwards else every:
        row = read(name)
        if "truth" in row and (truth_only or "judged" in row):
            continue
        begun = time.monotonic()
        folder = made(change, base, lent=_is_lent(name))
        if "truth" not in row:
            found = gate_truth.measured(folder, chats=_is_about_chat(name))
            row = {"name": name, "kind": kind, "truth": found}
            keep(name, row)
        if not truth_only:
            from benchmarks.gate_judge import Judge

            judge = judge or Judge(base, WORK)
            row["judged"] = judge(folder) | {"files": FILES}
            keep(name, row)
        told = gate_truth.verdict(reference["truth"], row["truth"])
        said = gate_table.verdicts(row) if "judged" in row else "not judged yet"
        print(f"{time.monotonic() - begun:5.0f} s  {name}: {told}; {said}", flush=True)
    shutil.rmtree(WORK / f"release-{os.getpid()}", ignore_errors=True)


def look_at_files_again() -> None:
    """Judge the files of every release anew that was judged before the check of every tensor's numbers came.

    Those whose files say what they should not come first.
    """
    from benchmarks.gate_judge import files

    base, changes = base_folder(), {name: change for _, name, change in releases()}
    reference = read("the base")["truth"]

    def wrong(row: Row) -> bool:
        truth = gate_truth.verdict(reference, row["truth"])
        said = gate_table.verdicts(row)["static"]
        return gate_table.judgement(truth, said) in (gate_table.MISS, gate_table.FALSE_ALARM)

    for row in sorted(rows(), key=wrong, reverse=True):
        judged, name = row["judged"], row["name"]
        if judged.get("files") == FILES or "checks" not in judged:
            continue
        static = files(base, made(changes[name], base, lent=_is_lent(name)))
        judged["checks"] = [*static, *(item for item in judged["checks"] if item["depth"] != "static")]
        judged["files"] = FILES
        keep(name, row)
        print(f"{name}: {gate_table.verdicts(row)['static']}", flush=True)


def rows() -> list[Row]:
    """Return every release that was measured and judged."""
    found = [read(name) for _, name, _ in releases()]
    return [row for row in found if "judged" in row]


def main(options: list[str]) -> None:
    """Run what is missing, and write the table of all that is there."""
    if unknown := set(options) - {"--truth", "--backwards", "--files", "--table"}:
        raise SystemExit(
            f"no option {', '.join(sorted(unknown))}; there are --truth, --backwards, --files and --table"
        )
    if "--files" in options:
        look_at_files_again()
    elif "--table" not in options:
        run(truth_only="--truth" in options, backwards="--backwards" in options)
    table = gate_table.as_markdown(read("the base"), rows(), f"{datetime.now(UTC):%Y-%m-%d}")
    gate_table.write(table)
    print(table)
