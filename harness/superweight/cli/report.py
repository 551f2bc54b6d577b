"""Run the command ``superweight report``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Write there; by default beside FILE.")
def render(file: Path, output: Path | None) -> None:
    """Make the page and the figures of a report again, from its report.json alone.

    Example: superweight report out/report.json --output page
    """
    from superweight.report.document import read_document
    from superweight.report.output import write_report

    directory = output or file.parent
    # FILE itself is left as it is.
    here = directory.resolve() == file.parent.resolve()
    write_report(directory, read_document(file), with_json=not here)
    click.echo(f"report: {directory / 'report.html'}", err=True)
