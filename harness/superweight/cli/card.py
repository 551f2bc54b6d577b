"""Run the command ``superweight card``, thin over `superweight.report.card`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from superweight.checkpoints.model_ref import parse_model
from superweight.claims.run_config import RunConfig
from superweight.cli.options import judging_options, run_part, write_output
from superweight.cli.progress import CHECK, progressing

if TYPE_CHECKING:
    from superweight.report.document import Document
    from superweight.report.run_info import Stages


@click.command()
@click.argument("model")
@click.option("--base", help="The model that MODEL was made from: tells whether its super weights survived.")
@click.option(
    "--update", type=click.Path(path_type=Path), help="Put the block between the marks of this README.md."
)
@judging_options
def card(model: str, base: str | None, update: Path | None, run_config: RunConfig) -> None:
    """Print a block for a model card: where MODEL's super weights are, what they carry, what keeps them.

    MODEL may also be a report.json that --report wrote, from which alone the block is made; else MODEL is
    checked first, or compared with --base.

    Example: superweight card out/report.json --update README.md
    """
    from superweight.report.card import updated_card, whole_card

    document = _document(model, base, run_config)
    text = whole_card(document) if update is None else updated_card(update, document)
    write_output("-" if update is None else str(update), text)
    if update is not None:
        click.echo(f"card: {update}")


def _document(model: str, base: str | None, run_config: RunConfig) -> Document:
    from superweight.core.errors import BadInput
    from superweight.report.document import read_document
    from superweight.report.run_info import Stages

    if model.endswith(".json"):
        if base is not None:
            raise BadInput("--base is of a model; a report says itself what it was compared with")
        return read_document(Path(model))
    with progressing(CHECK) as progress:
        stages = Stages(progress)
        return _measured(model, base, run_config, stages)


def _measured(model: str, base: str | None, run_config: RunConfig, stages: Stages) -> Document:
    from superweight.claims.check import CheckRequest, run_check
    from superweight.claims.evidence import Evidence
    from superweight.release.compare import CompareRequest, compare
    from superweight.report.document import of_comparison
    from superweight.report.observations import document_if_measurable, document_of

    if base is not None:
        models: list[Evidence] = []
        request = CompareRequest(parse_model(base), parse_model(model), run_config=run_config)
        result = compare(request, progress=stages, keep=models.append)
        documents = [document_if_measurable(evidence) for evidence in models]
        return of_comparison(result.as_dict(), documents, run_part(run_config.corpus, stages))
    checked = run_check(CheckRequest(parse_model(model), None, "auto", run_config), stages)
    document = document_of(checked.evidence, checked.outcomes)
    document["run"] = run_part(run_config.corpus, stages)
    return document
