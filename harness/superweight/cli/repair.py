"""Run the command ``superweight repair``, thin over `superweight.remedy.repair`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from superweight.claims.run_config import RunConfig
from superweight.cli.model_argument import MODEL
from superweight.cli.options import EXIT_CANNOT_JUDGE, EXIT_NOT_AS_EXPECTED, judging_options, write_output
from superweight.cli.progress import COMPARE, progressing
from superweight.core.coordinates import parse_place

if TYPE_CHECKING:
    from superweight.checkpoints.model_ref import ModelRef


@click.command()
@click.argument("base", type=MODEL)
@click.argument("release", type=MODEL)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Write the copy there: a new folder."
)
@click.option(
    "--at",
    "places",
    multiple=True,
    metavar="LAYER,ROW,COL",
    help="Put this scalar back whatever the comparison says of it; LAYER,NORM,CHANNEL for a norm's gain. "
    "Repeatable.",
)
@click.option(
    "--depth",
    type=click.Choice(["static", "activations", "quality", "all"]),
    default="all",
    show_default=True,
    help="How deep to compare, before and after.",
)
@click.option(
    "--gguf-type",
    type=click.Choice(["F16", "Q8_0"]),
    default="F16",
    show_default=True,
    help="What a quantised tensor of a GGUF file is stored as when its scalar is put back.",
)
@click.option(
    "--limits",
    "limits_file",
    type=click.Path(path_type=Path),
    help="TOML file with the limits; by default pyproject.toml's [tool.superweight.compare].",
)
@click.option(
    "--json", "json_file", type=click.Path(allow_dash=True), help="Write the result there; - is stdout."
)
@judging_options
def repair(
    base: ModelRef,
    release: ModelRef,
    out: Path,
    places: tuple[str, ...],
    depth: str,
    gguf_type: str,
    limits_file: Path | None,
    json_file: str | None,
    run_config: RunConfig,
) -> None:
    """Write a copy of RELEASE in which BASE's super weights stand where its own were damaged.

    Nothing but those scalars changes, or the one matrix that holds them where they are packed; the copy
    is compared with BASE at the end. Exit code 0: the copy is kept, or there was nothing to repair; 1:
    still damaged, or damaged elsewhere; 3: cannot be judged here; 4: bad input, nothing written.

    Example: superweight repair org/base ./release --out repaired
    """
    from superweight.release.compare import CompareRequest
    from superweight.release.limits import read_limits
    from superweight.release.result import CANNOT_JUDGE, DAMAGED, DEPTHS
    from superweight.remedy.repair import RepairRequest, as_text
    from superweight.remedy.repair import repair as repair_release

    wanted = RepairRequest(
        CompareRequest(
            base=base,
            release=release,
            depths=DEPTHS if depth == "all" else (depth,),
            limits=read_limits(limits_file),
            run_config=run_config,
        ),
        target=out,
        named=tuple(parse_place(place) for place in places),
        gguf_type=gguf_type,
    )
    with progressing(COMPARE) as progress:
        result = repair_release(wanted, progress)
    if json_file is not None:
        write_output(json_file, json.dumps(result.as_dict(), indent=2, allow_nan=False) + "\n")
    if json_file != "-":
        click.echo(as_text(result), nl=False)
    if result.verdict == DAMAGED:
        raise SystemExit(EXIT_NOT_AS_EXPECTED)
    if result.verdict == CANNOT_JUDGE:
        raise SystemExit(EXIT_CANNOT_JUDGE)
