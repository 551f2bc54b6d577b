"""Run the command ``superweight compare``, thin over `superweight.release.compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from superweight.claims.run_config import RunConfig
from superweight.cli.model_argument import MODEL
from superweight.cli.options import (
    EXIT_CANNOT_JUDGE,
    EXIT_NOT_AS_EXPECTED,
    judging_options,
    run_part,
    write_output,
)
from superweight.cli.progress import COMPARE, progressing
from superweight.core.errors import BadInput

if TYPE_CHECKING:
    from superweight.checkpoints.model_ref import ModelRef
    from superweight.claims.evidence import Evidence
    from superweight.release.result import Comparison
    from superweight.report.run_info import Stages


@click.command()
@click.argument("base", type=MODEL)
@click.argument("releases", nargs=-1, required=True, metavar="RELEASE...", type=MODEL)
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
    "--require",
    metavar="DEPTHS",
    help="Depths that must be reached for exit code 0, separated by commas; by default all of --depth.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["damaged", "degraded"]),
    default="damaged",
    show_default=True,
    help="What exits 1: damage alone, or also a release that is kept and measurably worse.",
)
@click.option(
    "--json", "json_file", type=click.Path(allow_dash=True), help="Write the result there; - is stdout."
)
@click.option(
    "--report", type=click.Path(path_type=Path), help="Write report.json, report.html and figures there."
)
@judging_options
def compare(
    base: ModelRef,
    releases: tuple[ModelRef, ...],
    depth: str,
    limits_file: Path | None,
    layout: str,
    require: str | None,
    fail_on: str,
    json_file: str | None,
    report: Path | None,
    run_config: RunConfig,
) -> None:
    """Tell whether BASE's super weights survived in RELEASE, or in each of several.

    The base is measured once for all of them. Exit code 0: kept; 1: damaged, where one of them is;
    3: cannot be judged here; 4: bad input.

    Example: superweight compare org/base ./release --format markdown
    """
    from superweight.release.compare import CompareRequest, compare_all
    from superweight.release.limits import read_limits
    from superweight.release.result import CANNOT_JUDGE, DAMAGED, DEGRADED, DEPTHS, as_markdown, as_text
    from superweight.report.run_info import Stages

    if report is not None and len(releases) > 1:
        raise BadInput("--report shows one comparison; give it one RELEASE")
    requests = [
        CompareRequest(
            base=base,
            release=release,
            depths=DEPTHS if depth == "all" else (depth,),
            limits=read_limits(limits_file),
            run_config=run_config,
            require=None if require is None else _depths(require),
        )
        for release in releases
    ]
    with progressing(COMPARE) as progress:
        stages = Stages(progress)
        models: list[Evidence] = []
        results = compare_all(requests, progress=stages, keep=models.append if report else lambda _: None)
        if report is not None:
            _report_comparison(report, results[0], models, stages, run_config.corpus)
    if json_file is not None:
        documents = [result.as_dict() for result in results]
        written = documents[0] if len(documents) == 1 else documents
        write_output(json_file, json.dumps(written, indent=2, allow_nan=False) + "\n")
    if json_file != "-":
        click.echo("\n".join(map(as_markdown if layout == "markdown" else as_text, results)), nl=False)
    if report is not None:
        click.echo(f"report: {report / 'report.html'}", err=True)
    if any(item.verdict == DAMAGED or (item.degraded and fail_on == DEGRADED) for item in results):
        raise SystemExit(EXIT_NOT_AS_EXPECTED)
    if any(item.verdict == CANNOT_JUDGE for item in results):
        raise SystemExit(EXIT_CANNOT_JUDGE)


def _depths(text: str) -> tuple[str, ...]:
    """Read a comma-separated list of depths. Raises `BadInput` naming one that there is not."""
    from superweight.release.result import DEPTHS

    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := [name for name in names if name not in DEPTHS]:
        raise BadInput(f"--require {unknown[0]!r} is no depth; give some of {', '.join(DEPTHS)}")
    if not names:
        raise BadInput(f"--require names no depth; give some of {', '.join(DEPTHS)}")
    return names


def _report_comparison(
    directory: Path, result: Comparison, models: list[Evidence], stages: Stages, corpus: str
) -> None:
    from superweight.report.document import of_comparison
    from superweight.report.output import write_report

    stages("gathering what the report shows")
    documents = []
    for evidence in models:
        # Not where the files alone were compared: a model that was loaded imported torch already.
        from superweight.report.observations import document_if_measurable

        documents.append(document_if_measurable(evidence))
    write_report(directory, of_comparison(result.as_dict(), documents, run_part(corpus, stages)))
