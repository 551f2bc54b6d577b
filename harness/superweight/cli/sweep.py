"""Run the command ``superweight sweep``, thin over `superweight.quantization.sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from superweight.claims.run_config import RunConfig
from superweight.cli.model_argument import MODEL
from superweight.cli.options import measuring_options, run_part, write_output
from superweight.cli.progress import SWEEP, progressing

if TYPE_CHECKING:
    from superweight.checkpoints.model_ref import ModelRef
    from superweight.claims.evidence import Evidence
    from superweight.quantization.sweep import Sweep
    from superweight.report.run_info import Stages


@click.command()
@click.argument("model", type=MODEL)
@click.option(
    "--json", "json_file", type=click.Path(allow_dash=True), help="Write the result there; - is stdout."
)
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    help="Rewrite the tables between the marks of this page, and the .svg beside it.",
)
@click.option(
    "--report", type=click.Path(path_type=Path), help="Write report.json, report.html and figures there."
)
@click.option("--real", is_flag=True, help="Measure torchao and bitsandbytes as well, where they run.")
@measuring_options
def sweep(
    model: ModelRef,
    json_file: str | None,
    page: Path | None,
    report: Path | None,
    real: bool,
    run_config: RunConfig,
) -> None:
    """Tell which rounding schemes keep MODEL alive, and what holding out its super weights buys.

    INT4 weights in blocks of 64 to 1,048,576, and INT8 weights and activations; perplexity of each.

    Example: superweight sweep smollm2-135m-instruct-q4_1
    """
    from superweight.claims.evidence import Evidence
    from superweight.measurement.corpus import WINDOWS, cut, documents
    from superweight.quantization.backend_sweep import real_sweep
    from superweight.quantization.losses import CALIBRATION, split
    from superweight.quantization.sweep import sweep as sweep_subject
    from superweight.report.run_info import Stages
    from superweight.report.sweep_page import as_document, dumped, table, write_page

    with progressing(SWEEP) as shown:
        stages = Stages(shown)
        stages(f"loading {model}")
        subject = run_config.load(model, stages)
        windows = cut(subject, documents(run_config.corpus), run_config.corpus, count=WINDOWS + CALIBRATION)
        text = split(windows, WINDOWS)
        evidence = Evidence(subject, run_config.corpus)
        stages("scanning")
        found = evidence.scan
        losses = sweep_subject(subject, found, text, stages)
        quantised = real_sweep(subject, found, text, progress=stages) if real else ()
        if report is not None:
            _write_report(report, evidence, losses, stages)
    document = as_document(subject, losses, quantised)
    if page is not None:
        write_page(page, document)
    if json_file is not None:
        write_output(json_file, dumped(document))
    if json_file != "-":
        click.echo(table(document), nl=False)
    if report is not None:
        click.echo(f"report: {report / 'report.html'}", err=True)


def _write_report(directory: Path, evidence: Evidence, losses: Sweep, stages: Stages) -> None:
    from superweight.report.observations import document_of
    from superweight.report.output import write_report
    from superweight.report.sweep_rows import sweep_rows

    stages("gathering what the report shows")
    document = document_of(evidence) | {"sweep": sweep_rows(losses)}
    document["run"] = run_part(evidence.corpus, stages)
    write_report(directory, document)
