"""Makes the reports of the gallery: docs/gallery/NAME.json, from which the site renders each page.

    python -m tools.gallery [NAME]...

runs the commands of the table below, or those that are named, and keeps their report.json. The real
model is downloaded once; nothing else is.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from click.testing import CliRunner

from superweight.cli.main import main as superweight
from superweight.core.atomic import write_whole
from superweight.report.document import dumped

REPOSITORY = Path(__file__).resolve().parents[1]
GALLERY = REPOSITORY / "docs" / "gallery"
REAL = "smollm2-135m-instruct-q4_1"


@dataclass(frozen=True)
class Example:
    """One report: the command that makes it, and what a reader sees in it."""

    name: str
    title: str
    arguments: tuple[str, ...]
    exit_code: int
    seen: str

    @property
    def command(self) -> str:
        """The command as a reader types it, with the report as a page."""
        return " ".join(("superweight", *self.arguments, "--report", "out"))


EXAMPLES = (
    Example(
        "smollm2-135m",
        "A real model: SmolLM2-135M-Instruct, Q4_1",
        ("check", REAL),
        0,
        "Two super weights carry the model. All verdicts are the expected ones; C9 is refuted and C12 "
        "inconclusive, and the baseline says so.",
    ),
    Example(
        "tiny-planted",
        "A tiny model that depends on one scalar",
        ("check", "tiny-planted"),
        0,
        "The smallest model with a super weight: it was planted before training.",
    ),
    Example(
        "tiny-plain",
        "A tiny model without a super weight",
        ("check", "tiny-plain"),
        0,
        "Most claims are not applicable: a model without super weights is a finding, not a failure.",
    ),
    Example(
        "tiny-tuned",
        "A fine-tune held to its base",
        ("check", "tiny-tuned", "--base", "tiny-planted"),
        0,
        "Both models side by side; every verdict is held to the one on the base.",
    ),
    Example(
        "compared-tuned",
        "The release gate: a fine-tune against its base",
        ("compare", "tiny-planted", "tiny-tuned"),
        0,
        "What the gate looked at, at three depths, each number beside its limit.",
    ),
    Example(
        "compared-damaged",
        "The release gate: another model under the same name",
        ("compare", "tiny-planted", "tiny-plain"),
        1,
        "The super weight is gone: the reasons stand first.",
    ),
)


def main(names: list[str]) -> int:
    """Make the reports that are named, or all of them."""
    known = {example.name: example for example in EXAMPLES}
    if unknown := [name for name in names if name not in known]:
        print(f"{unknown[0]!r} is none of {', '.join(known)}", file=sys.stderr)
        return 4
    os.chdir(REPOSITORY)  # where the committed baselines are
    os.environ.pop("CI", None)
    for example in [known[name] for name in names] or EXAMPLES:
        print(f"{example.name}: {example.command}", file=sys.stderr)
        make(example, GALLERY)
    return 0


def make(example: Example, directory: Path) -> dict[str, Any]:
    """Run an example's command; return its report, kept as ``directory/NAME.json``.

    Raises `RuntimeError` where the command ends otherwise than the gallery says.
    """
    with TemporaryDirectory() as folder:
        arguments = [*example.arguments, "--report", folder]
        result = CliRunner().invoke(superweight, arguments, catch_exceptions=False)
        if result.exit_code != example.exit_code:
            raise RuntimeError(
                f"{example.command} exits {result.exit_code}, not {example.exit_code}:\n{result.output}"
            )
        document: dict[str, Any] = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
    document["run"]["command"] = example.command
    directory.mkdir(parents=True, exist_ok=True)
    write_whole({directory / f"{example.name}.json": dumped(document).encode()})
    return document


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
