"""Run the command ``superweight check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from superweight.claims.run_config import RunConfig
from superweight.cli.model_argument import MODEL
from superweight.cli.options import (
    EXIT_CANNOT_JUDGE,
    EXIT_NOT_AS_EXPECTED,
    Duration,
    judging_options,
    literal,
    run_part,
    write_output,
)
from superweight.cli.progress import CHECK, SCAN, progressing

if TYPE_CHECKING:
    from superweight.checkpoints.model_ref import ModelRef
    from superweight.claims.check import Checked
    from superweight.report.document import Document
    from superweight.report.run_info import Stages


@click.command()
@click.argument("model", type=MODEL)
@click.option("--base", metavar="MODEL", type=MODEL, help="Expect the verdicts of this model.")
@click.option(
    "--report", type=click.Path(path_type=Path), help="Write report.json, report.html and figures there."
)
@click.option(
    "--json", "json_file", type=click.Path(allow_dash=True), help="Write report.json there; - is stdout."
)
@click.option(
    "--expect",
    type=click.Choice(["auto", "paper"]),
    default="auto",
    show_default=True,
    help="auto: the base, else the baseline, else the registry.",
)
@judging_options
@click.option("--tasks", default="", help="Zero-shot tasks of lm-evaluation-harness, separated by commas.")
@click.option("--limit", type=int, help="Ask only the first so many items of each task.")
@click.option(
    "--plan", is_flag=True, help="Print what would be measured and what it costs, and measure nothing."
)
@click.option(
    "--budget",
    type=Duration(),
    metavar="TIME",
    help="Judge what fits into 60s or 10min, cheapest claims first; the rest is inconclusive.",
)
def check(
    model: ModelRef,
    base: ModelRef | None,
    report: Path | None,
    json_file: str | None,
    expect: str,
    tasks: str,
    limit: int | None,
    plan: bool,
    budget: float | None,
    run_config: RunConfig,
) -> None:
    """Judge every claim of the paper on MODEL and hold the verdicts to what is expected.

    Exit code 0: as expected; 1: not as expected; 3: as expected where the budget let it be judged; 4: bad
    input.

    Example: superweight check smollm2-135m-instruct-q4_1 --report out
    """
    from superweight.claims.check import CheckRequest, run_check
    from superweight.cli.accuracy_table import accuracy_lines
    from superweight.report.run_info import Stages

    if plan:
        _show_plan(model, run_config, json_file)
        return
    with progressing(CHECK) as progress:
        stages = Stages(progress)
        checked = run_check(
            CheckRequest(
                model=model,
                base=base,
                expect=expect,
                run_config=run_config,
                tasks=tuple(name.strip() for name in tasks.split(",") if name.strip()),
                limit=limit,
                budget=budget,
            ),
            progress=stages,
        )
        if report is not None or json_file is not None:
            document = _document(checked, stages, run_config.corpus)
            _write_document(document, report, json_file)
    outcomes = list(checked.outcomes)
    if json_file != "-":
        _print_check(model.spec, outcomes)
        for outcome in outcomes:
            for line in accuracy_lines(outcome.verdict):
                click.echo(line)
    if report is not None:
        click.echo(f"report: {report / 'report.html'}", err=True)
    if not all(outcome.as_expected for outcome in outcomes):
        raise SystemExit(EXIT_NOT_AS_EXPECTED)
    if not all(outcome.was_judged for outcome in outcomes):
        raise SystemExit(EXIT_CANNOT_JUDGE)


def _show_plan(model: ModelRef, run_config: RunConfig, json_file: str | None) -> None:
    import json

    from superweight.claims.check import run_plan
    from superweight.cli.plan_text import print_plan

    with progressing(SCAN) as progress:
        planned = run_plan(model, run_config, progress)
    if json_file is not None:
        write_output(json_file, json.dumps(planned.as_dict(), indent=2) + "\n")
    if json_file != "-":
        print_plan(planned)


def _document(checked: Checked, stages: Stages, corpus: str) -> Document:
    from superweight.report.observations import document_of

    stages("gathering what the report shows")
    document = document_of(checked.evidence, checked.outcomes)
    if checked.base is not None:
        document["base"] = document_of(checked.base)
    document["run"] = run_part(corpus, stages)
    return document


def _write_document(document: Document, directory: Path | None, json_file: str | None) -> None:
    if json_file is not None:
        from superweight.report.document import dumped

        write_output(json_file, dumped(document))
    if directory is not None:
        # Draws with matplotlib, which JSON alone does without.
        from superweight.report.output import write_report

        write_report(directory, document)


def _print_check(model: str, outcomes: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from superweight.claims.expectations import explain

    console = Console()
    table = Table(title=literal(f"Verdicts on {model}"))
    # Where all of it is of one pass, nothing has to be told apart.
    marked = len({outcome.verdict.engine for outcome in outcomes}) > 1
    for column in ("claim", *(["engine"] if marked else []), "verdict", "expected", "measured"):
        table.add_column(column)
    styles = {"supported": "green", "refuted": "red", "inconclusive": "yellow", "not applicable": "dim"}
    for outcome in outcomes:
        verdict = outcome.verdict
        expected = f"{outcome.expected} ({outcome.source})" if outcome.expected else "-"
        table.add_row(
            verdict.claim.id,
            *([verdict.engine] if marked else []),
            f"[{styles[verdict.status]}]{verdict.status}[/]",
            expected,
            literal(verdict.reason),
            style=None if outcome.as_expected else "bold",
        )
    console.print(table)
    unexpected = [outcome for outcome in outcomes if not outcome.as_expected]
    for outcome in unexpected:
        console.print(explain(model, outcome), markup=False, highlight=False)
    left = [outcome for outcome in outcomes if not outcome.was_judged]
    # Nothing is expected of what a budget left out; of what the text left open, what the base shows.
    cut = [outcome.verdict.claim.id for outcome in left if outcome.expected is None]
    open_ = [outcome.verdict.claim.id for outcome in left if outcome.expected is not None]
    if cut:
        said = f"not judged within the budget: {', '.join(cut)}; give a larger --budget, or none."
        console.print(said, highlight=False)
    if open_:
        said = f"not judged by as much text: {', '.join(open_)}; give more with --corpus FILE."
        console.print(said, highlight=False)
    if all(outcome.expected is None for outcome in outcomes):
        console.print(
            "This model is met for the first time: nothing was compared. Keep these verdicts as its "
            "baseline with pytest --sw-model ... --snapshot-update, or hold it to --base or --expect paper.",
            highlight=False,
        )
    elif not unexpected:
        judged = len(outcomes) - len(left)
        console.print(f"as expected: {judged} of {len(outcomes)} claims", highlight=False)
