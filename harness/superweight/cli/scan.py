"""The command ``superweight scan``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from superweight.claims.run_config import RunConfig
from superweight.cli.model_argument import MODEL
from superweight.cli.options import literal, loading_options, write_output
from superweight.cli.progress import SCAN, progressing

if TYPE_CHECKING:
    from superweight.checkpoints.model_ref import ModelRef


@click.command()
@click.argument("model", type=MODEL)
@click.option(
    "--json", "json_file", type=click.Path(allow_dash=True), help="Write the result there; - is stdout."
)
@loading_options
def scan(model: ModelRef, json_file: str | None, run_config: RunConfig) -> None:
    """Find MODEL's super weights, and confirm them, in one forward pass where that can be foreseen.

    Example: superweight scan smollm2-135m-instruct-q4_1
    """
    from superweight.claims.paper.location import published_agreement
    from superweight.detection.scan import as_dict
    from superweight.detection.scan import scan as scan_subject
    from superweight.measurement.corpus import default_prompt

    with progressing(SCAN) as progress:
        progress(f"loading {model}")
        subject = run_config.load(model, progress)
        progress("scanning")
        found = scan_subject(subject, default_prompt())
    result = as_dict(subject, found)
    if json_file is not None:
        write_output(json_file, json.dumps(result, indent=2) + "\n")
    if json_file != "-":
        _print_scan(result)
        if subject.entry.other_readings:
            for held in published_agreement(subject, found):
                click.echo(f"published by {held}")


def _print_scan(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    weights = Table(title=f"Super weights of {result['model']}")
    for column in ("coordinate", "value", "makes", "of its write", "rank", "token"):
        left = column == "coordinate"
        weights.add_column(column, justify="left" if left else "right", no_wrap=True)
    for item in result["super_weights"]:
        parts = f"{item['part']:.1%}", f"{item['share']:.1%}"
        rank = f"{item['rank']:,}" if item["rank"] else "?"
        weights.add_row(_place(item), f"{item['value']:.6g}", *parts, rank, str(item["token"]))
    if result["super_weights"]:
        console.print(weights)
    many = [neuron for neuron in result["neurons"] if len(neuron["rows"]) > 1]
    for neuron in many:
        channels = ", ".join(map(str, neuron["rows"]))
        console.print(
            f"one neuron: block {neuron['layer']}, column {neuron['col']} writes channels {channels}"
        )
    for item in result["super_activations"]:
        console.print(
            f"super activation: channel {item['channel']}, token {item['token']}, "
            f"blocks {item['onset']} to {item['last']}, magnitude {item['magnitude']:.6g}",
            highlight=False,
        )
    for item in result["cancellers"]:
        console.print(f"canceller: {_place(item)} = {item['value']:.6g}", highlight=False)
    for kind in ("companion", "successor"):
        for item in result[f"{kind}s"]:
            made = f"makes {item['part']:.1%} of an activation on channel {item['row']}"
            console.print(f"{kind}: {_place(item)} = {item['value']:.6g} {made}", highlight=False)
    room = result["head_room"]
    shares = ", ".join(f"{share:.2g} of what {dtype} holds" for dtype, share in room["share"].items())
    console.print(f"largest activation {room['largest']:.6g}: {shares}", highlight=False)
    console.print(
        f"{result['stop_reason']} after {result['passes']} pass{'es' * (result['passes'] > 1)}",
        highlight=False,
    )


def _place(item: dict[str, Any]) -> str:
    """Write an item's coordinate, kept from being read as rich's markup."""
    indices = (item[name] for name in ("layer", "expert", "row", "col") if name in item)
    return literal(f"[{', '.join(map(str, indices))}]")
