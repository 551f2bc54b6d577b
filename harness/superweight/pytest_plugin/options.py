"""Define the options of pytest that begin with --sw-.

They are defined before it is known whose ``superweight`` a project has: nothing of ours is imported here
until an option is read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

# `superweight.core.environment.DEVICES`, which cannot be imported here; a test holds them to each other.
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu", "npu")


def _absolute(text: str) -> Path:
    """Read a path once, from where the run began: a test may change the directory."""
    return Path(text).absolute()


def _positive(text: str) -> int:
    """Read a number of examples: none at all would find no counterexample in anything."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of examples; give 1 or more")
    return number


def _duration(text: str) -> float:
    try:
        from superweight.core.duration import parse_duration
        from superweight.core.errors import BadInput
    except ImportError:
        raise argparse.ArgumentTypeError("this project has a superweight of its own") from None
    try:
        return parse_duration(text)
    except BadInput as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _registry(text: str) -> str:
    return text if "://" in text else str(_absolute(text))


def _corpus(text: str) -> str:
    return text if text in ("builtin", "wikitext2") else str(_absolute(text))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("superweight", "super weights of language models")
    group.addoption(
        "--sw-model",
        action="append",
        default=[],
        metavar="MODEL",
        help="Model to test: a registry name, NAME=PATH, org/name[@revision], a directory or a .gguf "
        "file. Repeatable. Default: every registry model that the run's markers select.",
    )
    group.addoption(
        "--sw-base",
        metavar="MODEL",
        help="Base model whose verdicts the tested models must reproduce. Default: none.",
    )
    group.addoption(
        "--sw-expect",
        default="auto",
        choices=("auto", "paper"),
        help="What to expect: auto (the base, else the baseline, else the registry) or paper. "
        "Default: %(default)s.",
    )
    group.addoption(
        "--sw-device",
        default="auto",
        choices=DEVICES,
        help="Where to run: auto is cuda where there is one. Default: %(default)s.",
    )
    group.addoption(
        "--sw-dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="Precision: auto is float32 on a CPU and the checkpoint's own elsewhere. Default: %(default)s.",
    )
    group.addoption(
        "--sw-engine",
        default="transformers",
        choices=("transformers", "llama.cpp"),
        help="What runs the model for predictions and text; llama.cpp runs .gguf files. "
        "Default: %(default)s.",
    )
    group.addoption(
        "--sw-base-engine",
        choices=("transformers", "llama.cpp"),
        help="What runs the base of --sw-base. Default: that of --sw-engine where it can, else transformers.",
    )
    group.addoption(
        "--sw-corpus",
        type=_corpus,
        default="builtin",
        metavar="CORPUS",
        help="Text to measure on: builtin, wikitext2, a text file or a directory of them. "
        "Default: %(default)s.",
    )
    group.addoption(
        "--sw-report",
        type=_absolute,
        metavar="DIR",
        help="Write report.json, report.html and figures there, one page for all models. Default: no report.",
    )
    group.addoption(
        "--sw-summary",
        type=_absolute,
        metavar="FILE",
        help="Append the verdicts there as a Markdown table, for example to $GITHUB_STEP_SUMMARY. "
        "Default: no summary.",
    )
    group.addoption(
        "--sw-baselines",
        type=_absolute,
        metavar="DIR",
        help="Where baselines are kept. Default: the folder 'baselines' beside the test file; for the "
        "claims that ship with the harness, tests/claims/baselines of the project.",
    )
    group.addoption(
        "--sw-examples",
        type=_positive,
        metavar="N",
        help="Examples that each property is tried on. Default: 25; 200 in a run that selects slow tests.",
    )
    group.addoption(
        "--sw-budget",
        type=_duration,
        metavar="TIME",
        help="Time that the claims of each model may take, 60s or 10min: those that do not fit are skipped, "
        "with what they would need. Default: no limit.",
    )
    group.addoption(
        "--sw-registry",
        action="append",
        default=[],
        type=_registry,
        metavar="FILE|URL",
        help="Know the models of an index.json or a models.toml beside those that ship. Repeatable. "
        "Default: none.",
    )
    group.addoption(
        "--sw-trust",
        action="append",
        default=[],
        choices=("pickle", "remote-code"),
        help="Accept pickled weights, or code that a checkpoint brings. Repeatable. Default: neither.",
    )
