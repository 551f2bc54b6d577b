"""Writes the table of docs/architectures.md from a run of tests/model.

    python -m tools.architecture_table

runs the tests, reads what each recorded, and puts a row for every family and build between the two
markers of the page. A row says passed, skipped (with pytest's reason) or failed.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from superweight.core import markdown

REPOSITORY = Path(__file__).parents[1]
TESTS = REPOSITORY / "tests" / "model"
PAGE = REPOSITORY / "docs" / "architectures.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
PACKAGES = ("torch", "transformers", "accelerate", "gguf", "bitsandbytes", "torchao", "compressed-tensors")


def main() -> int:
    """Run the tests and rewrite the page; returns pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            str(TESTS),
            f"--junitxml={report}",
            "-o",
            "junit_family=xunit1",
        ]
        code = subprocess.run(command, check=False).returncode
        rows = rows_of(ElementTree.parse(report).getroot())  # noqa: S314  # pytest wrote it a moment ago
    page = markdown.rewritten_between(PAGE, BEGIN, END, f"\n{render(rows)}")
    PAGE.write_text(page, encoding="utf-8")
    return code


def rows_of(report: ElementTree.Element) -> list[tuple[str, str, str]]:
    """Return (what, as what, outcome) of every test that recorded a family or a build."""
    rows = []
    for case in report.iter("testcase"):
        recorded = {item.get("name", ""): item.get("value", "") for item in case.iter("property")}
        what = recorded.get("family") or recorded.get("build")
        if what is None:
            continue
        kind = recorded.get("kind", "build" if "build" in recorded else "inside a vision-language model")
        architecture = recorded.get("architecture", "LlamaForCausalLM")
        rows.append((what, f"{kind}, {architecture}", _outcome(case)))
    return rows


def _outcome(case: ElementTree.Element) -> str:
    if (skipped := case.find("skipped")) is not None:
        return f"skipped: {skipped.get('message')}"
    return "failed" if case.find("failure") is not None or case.find("error") is not None else "passed"


def render(rows: list[tuple[str, str, str]]) -> str:
    """Return the table in Markdown, under the versions that it was run on."""
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    gpu = "with CUDA" if _cuda() else "without a GPU"
    lines = [
        f"Python {platform.python_version()}, {versions}, on {platform.machine()} {gpu}.",
        "",
        *markdown.table(("family or build", "what it stands for", "result"), rows),
    ]
    return "\n".join(lines) + "\n"


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
