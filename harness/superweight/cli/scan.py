"""Run the command ``superweight scan``."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import click

from superweight.checkpoints.tensors.open import is_remote
from superweight.claims.run_config import RunConfig
from superweight.cli.model_argument import MODEL
from superweight.cli.options import loading_options, write_output
from superweight.cli.progress import SCAN, progressing
from superweight.cli.scan_stream import Choices, scan_streamed, streams
from superweight.core.errors import BadInput, TooLarge

if TYPE_CHECKING:
    from superweight.checkpoints.model_ref import ModelRef
    from superweight.detection.scan import Scan
    from superweight.measurement.effect import Effect
    from superweight.model.subject import Subject

_log = logging.getLogger("superweight")


@click.command()
@click.argument("model", type=MODEL)
@click.option(
    "--json", "json_file", type=click.Path(allow_dash=True), help="Write the result there; - is stdout."
)
@click.option(
    "--no-effect", is_flag=True, help="Leave out how much the model loses without what is found: faster."
)
@click.option(
    "--stream",
    is_flag=True,
    help="Run MODEL block by block, in the memory of two; hf:// and https:// always are, and what does not "
    "fit into main memory.",
)
@click.option("--full", is_flag=True, help="Of a streamed model run every block, settled or not.")
@click.option("--blocks", type=click.IntRange(min=1), help="Of a streamed model run no more than so many.")
@click.option("--plan", "plan_only", is_flag=True, help="Say what streaming MODEL would read, and stop.")
@loading_options
def scan(
    model: ModelRef,
    json_file: str | None,
    no_effect: bool,
    stream: bool,
    full: bool,
    blocks: int | None,
    plan_only: bool,
    run_config: RunConfig,
) -> None:
    """Find MODEL's super weights, and confirm them, in one forward pass where that can be foreseen.

    Nine prompts then say how surely each is one of the model's, and eight windows of text what the
    model loses without them.

    hf://org/name and https addresses are not downloaded: their blocks are read one after the other, and
    no further than the answer needs. So it goes with a model on a disk that does not fit into memory. One
    prompt is looked at then.

    Example: superweight scan smollm2-135m-instruct-q4_1
    """
    choices = Choices(full, blocks, plan_only)
    if stream or is_remote(model.entry.address):
        scan_streamed(model, json_file, choices, run_config)
        return
    if full or blocks is not None or plan_only:
        raise BadInput(
            "--full, --blocks and --plan are about a model that is run block by block; add --stream, or give "
            "its address as hf://org/name"
        )
    try:
        _scan_loaded(model, json_file, run_config, no_effect=no_effect)
    except TooLarge as error:
        if not streams(run_config):
            raise
        _log.warning("%s", error)
        scan_streamed(model, json_file, choices, run_config)


def _scan_loaded(model: ModelRef, json_file: str | None, run_config: RunConfig, *, no_effect: bool) -> None:
    from superweight.claims.paper.location import published_agreement
    from superweight.cli.scan_text import scan_lines
    from superweight.detection.scan import scan as scan_subject
    from superweight.detection.scan_record import as_dict
    from superweight.detection.steadiness import look_at_prompts
    from superweight.measurement.corpus import default_prompt, prompts

    with progressing(SCAN) as progress:
        progress(f"loading {model}")
        subject = run_config.load(model, progress)
        progress("scanning")
        found = scan_subject(subject, default_prompt())
        steady = look_at_prompts(subject, found, prompts().values())
        effect = None
        if not no_effect and (found.coordinates or found.making_gains):
            progress("measuring what it carries")
            effect = _effect(subject, found)
    if json_file is not None:
        write_output(
            json_file, json.dumps(as_dict(subject, found, steady) | _effect_entry(effect), indent=2) + "\n"
        )
    if json_file != "-":
        for line in scan_lines(subject, found, steady, effect):
            click.echo(line)
        if subject.entry.other_readings:
            for held in published_agreement(subject, found):
                click.echo(f"published by {held}")


def _effect(subject: Subject, found: Scan) -> Effect | None:
    from superweight.measurement.corpus import BUILTIN, cut, documents
    from superweight.measurement.effect import measure_effect

    return measure_effect(subject, found, cut(subject, documents(BUILTIN), BUILTIN))


def _effect_entry(effect: Effect | None) -> dict[str, object]:
    from superweight.measurement.effect import as_dict

    return {} if effect is None else {"effect": as_dict(effect)}
