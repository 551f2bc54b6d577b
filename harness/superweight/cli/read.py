"""Run the command ``superweight read``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from superweight.cli.model_argument import MODEL
from superweight.cli.options import write_output
from superweight.core.coordinates import parse_place

if TYPE_CHECKING:
    from superweight.checkpoints.model_ref import ModelRef
    from superweight.checkpoints.scalars import ReadResult


@click.command()
@click.argument("model", type=MODEL)
@click.option(
    "--at",
    "places",
    multiple=True,
    metavar="LAYER,ROW,COL",
    help="Read this scalar; LAYER,EXPERT,ROW,COL in a mixture of experts, "
    "LAYER,NORM,CHANNEL for a norm's gain. Repeatable.",
)
@click.option("--directory", is_flag=True, help="Read every scalar that is published of MODEL.")
@click.option(
    "--json", "json_file", type=click.Path(allow_dash=True), help="Write the result there; - is stdout."
)
def read(model: ModelRef, places: tuple[str, ...], directory: bool, json_file: str | None) -> None:
    """Read scalars of MODEL straight from its files, without loading it.

    MODEL may also be a .safetensors file, hf://org/name[@revision], or the https address of a
    safetensors file or of a folder of them: of a remote file only the header and the bytes needed
    are brought.

    Example: superweight read smollm2-135m-instruct-q4_1 --directory
    """
    from superweight.checkpoints.scalars import as_dict
    from superweight.checkpoints.scalars import read as read_model

    result = read_model(model.entry, [parse_place(place) for place in places], directory=directory)
    if json_file is not None:
        write_output(json_file, json.dumps(as_dict(result), indent=2) + "\n")
    if json_file != "-":
        _print_readings(result)


def _print_readings(result: ReadResult) -> None:
    # Plain lines: a table would cost an import that takes longer than the reading.
    for reading in result.readings:
        scalar, tensor = reading.scalar, reading.tensor
        step = "" if scalar.step is None else f", step {scalar.step:.6g}"
        click.echo(f"{reading.coordinate} = {scalar.value!r} ({tensor.dtype}{step}) in {tensor.name}")
        if reading.agrees is not None and reading.published is not None:
            verdict = "agrees" if reading.agrees else "DISAGREES"
            click.echo(f"  {verdict} with the published value {reading.published.value}")
    if result.received is not None:
        click.echo(f"{result.received} bytes received")
