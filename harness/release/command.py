"""The command ``superweight compare``: thin, over `harness.release.comparing`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.options import EXIT_NOT_AS_EXPECTED, loading_options, progress, write
from harness.resources import DEFAULT_BASELINES


@click.command()
@click.argument("base")
@click.argument("release")
@click.option(
    "--depth",
    type=click.Choice(["static", "activations", "quality", "all"]),
    default="all",
    show_default=True,
    help="How deep to look: at the files, at one forward pass, at predictions.",
)
@click.option(
    "--limits",
    "limits_file",
    type=click.Path(path_type=Path),
    help="TOML file with the limits; by default pyproject.toml's [tool.superweight.compare].",
)
@click.option(
    "--format",
    "layout",
    type=click.Choice(["text", "markdown"]),
    default="text",
    show_default=True,
    help="How to print it; markdown suits a model card and a job summary.",
)
@click.option(
    "--json", "json_file", type=click.Path(allow_dash=True), help="Write the result there; - is stdout."
)
@click.option(
    "--corpus", default="builtin", show_default=True, help="builtin, wikitext2, a file or a folder."
)
@click.option(
    "--baselines",
    type=click.Path(path_type=Path),
    default=DEFAULT_BASELINES,
    show_default=True,
    help="Where committed baselines lie.",
)
@loading_options
def compare(
    base: str,
    release: str,
    depth: str,
    limits_file: Path | None,
    layout: str,
    json_file: str | None,
    corpus: str,
    baselines: Path,
    device: str,
    dtype: str,
    trust: tuple[str, ...],
) -> None:
    """Tell whether BASE's super weights survived in RELEASE.

    Exit code 0: kept; 1: damaged; 4: bad input.

    Example: superweight compare org/base ./release --format markdown
    """
    from harness.release.comparing import Request
    from harness.release.comparing import compare as compare_models
    from harness.release.comparison import DEPTHS, KEPT, as_markdown, as_text
    from harness.release.limits import read_limits

    result = compare_models(
        Request(
            base=base,
            release=release,
            depths=DEPTHS if depth == "all" else (depth,),
            limits=read_limits(limits_file),
            corpus=corpus,
            baselines=baselines,
            device=device,
            dtype=dtype,
            trust=trust,
        ),
        progress=progress,
    )
    if json_file is not None:
        write(json_file, json.dumps(result.as_dict(), indent=2, allow_nan=False) + "\n")
    if json_file != "-":
        click.echo(as_markdown(result) if layout == "markdown" else as_text(result), nl=False)
    if result.verdict != KEPT:
        raise SystemExit(EXIT_NOT_AS_EXPECTED)
