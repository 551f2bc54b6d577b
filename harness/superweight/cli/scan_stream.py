"""Scan a model that is run block by block, as ``superweight scan`` does of addresses and with --stream."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from superweight.claims.run_config import RunConfig
from superweight.cli.options import write_output
from superweight.cli.progress import STREAM, progressing
from superweight.core.errors import BadInput

if TYPE_CHECKING:
    from superweight.checkpoints.model_ref import ModelRef


@dataclass(frozen=True)
class Choices:
    """How far to look: to the end with ``full``, through ``blocks`` at most, or at the ``plan`` alone."""

    full: bool
    blocks: int | None
    plan: bool


def streams(run_config: RunConfig) -> bool:
    """Tell whether the options of a run allow that a model is run block by block."""
    return run_config.device in ("auto", "cpu") and not run_config.trust


def scan_streamed(model: ModelRef, json_file: str | None, choices: Choices, run_config: RunConfig) -> None:
    """Scan a model block by block, and say what that took."""
    if run_config.device not in ("auto", "cpu"):
        raise BadInput(
            f"a streamed model runs on the CPU, and --device {run_config.device} was given; leave it out"
        )
    if run_config.trust:
        raise BadInput("of a streamed model neither pickled weights nor code are read; leave --trust out")
    from superweight.claims.paper.location import published_agreement
    from superweight.cli.scan_text import scan_lines
    from superweight.detection.scan import scan
    from superweight.detection.scan_record import as_dict
    from superweight.detection.stopping_rule import CARRIES, Until
    from superweight.measurement.corpus import default_prompt
    from superweight.model.stream_plan import costing, plan
    from superweight.model.streamed_model import streamed

    with progressing(STREAM) as progress:
        progress(f"opening {model}")
        with streamed(model.entry, dtype=run_config.dtype) as opened:
            subject, stream = opened.subject, opened.stream
            if choices.plan:
                tokens = len(subject.encode(default_prompt()))
                planned = plan(stream, opened.checkpoint, tokens, CARRIES)
                if json_file is not None:
                    write_output(json_file, json.dumps(planned.as_dict(), indent=2) + "\n")
                if json_file != "-":
                    for line in planned.lines(subject.name, choices.blocks, full=choices.full):
                        click.echo(line)
                return
            stream.last = choices.blocks
            stream.told = progress
            until = Until(None if choices.full else CARRIES, choices.blocks)
            with costing(stream, opened.checkpoint) as cost:
                found = scan(subject, default_prompt(), until)
            document = as_dict(subject, found) | {"cost": cost.as_dict()}
            if json_file is not None:
                write_output(json_file, json.dumps(document, indent=2) + "\n")
            if json_file != "-":
                for line in scan_lines(subject, found, None, None):
                    click.echo(line)
                click.echo(cost.line)
                if subject.entry.other_readings:
                    for held in published_agreement(subject, found):
                        click.echo(f"published by {held}")
