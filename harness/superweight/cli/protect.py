"""Run the command ``superweight protect``, thin over `superweight.remedy.protect`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from superweight.claims.run_config import RunConfig
from superweight.cli.model_argument import MODEL
from superweight.cli.options import judging_options, write_output
from superweight.cli.progress import SCAN, progressing

if TYPE_CHECKING:
    from superweight.checkpoints.model_ref import ModelRef


@click.command()
@click.argument("model", type=MODEL)
@click.option(
    "--for",
    "tool_name",
    metavar="TOOL",
    required=True,
    help="llama.cpp, llm-compressor, gptqmodel, auto-round, auto-awq, bitsandbytes, torchao, hqq, "
    "optimum-quanto or mlx.",
)
@click.option(
    "--json", "json_file", type=click.Path(allow_dash=True), help="Write the result there; - is stdout."
)
@judging_options
def protect(model: ModelRef, tool_name: str, json_file: str | None, run_config: RunConfig) -> None:
    """Print what a quantiser must be told so that MODEL's super weights survive, ready to paste.

    Below it stand what that costs and, where it was measured, what it buys.

    Example: superweight protect org/base --for bitsandbytes
    """
    from superweight.remedy.protect import as_text
    from superweight.remedy.protect import protect as protect_model
    from superweight.remedy.recipes import tool

    chosen = tool(tool_name)
    with progressing(SCAN) as progress:
        result = protect_model(model, chosen, run_config, progress)
    if json_file is not None:
        write_output(json_file, json.dumps(result.as_dict(), indent=2, allow_nan=False) + "\n")
    if json_file != "-":
        click.echo(as_text(result), nl=False)
