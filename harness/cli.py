"""The ``superweight`` command: thin, over the same functions that the tests use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness import __version__
from harness.coordinates import Coordinate
from harness.errors import BadInput, HarnessError, one_line
from harness.options import (
    DEFAULT_BASELINES,
    EXIT_BAD_INPUT,
    EXIT_NOT_AS_EXPECTED,
    loading_options,
    progress,
    write,
)
from harness.registry import load_registry, resolve
from harness.release.command import compare

if TYPE_CHECKING:
    from harness.reading import Readings


class _Group(click.Group):
    """Turns the harness's own errors into one line and the exit code of the contract."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HarnessError as error:
            click.echo(f"superweight: {one_line(error)}", err=True)
            ctx.exit(EXIT_BAD_INPUT if isinstance(error, BadInput) else EXIT_NOT_AS_EXPECTED)
        except click.UsageError as error:
            click.echo(f"superweight: {error.format_message()}; see superweight --help", err=True)
            ctx.exit(EXIT_BAD_INPUT)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Find, prune and judge the super weights of a language model.

    MODEL is a registry name (see "superweight models"), NAME=PATH for a registry model whose files
    lie at PATH, org/name[@revision] on the hub, a directory, or a .gguf file.
    """


main.add_command(compare)


@main.command()
@click.argument("model")
@click.option(
    "--json", "json_file", type=click.Path(allow_dash=True), help="Write the result there; - is stdout."
)
@loading_options
def scan(model: str, json_file: str | None, device: str, dtype: str, trust: tuple[str, ...]) -> None:
    """Find MODEL's super weights: one forward pass, and one to confirm.

    Example: superweight scan smollm2-135m-instruct-q4_1
    """
    from harness.corpus import default_prompt
    from harness.loading import load
    from harness.scanning import as_dict
    from harness.scanning import scan as scan_subject

    subject = load(resolve(model), device=device, dtype=dtype, trust=trust)
    result = as_dict(subject, scan_subject(subject, default_prompt()))
    if json_file is not None:
        write(json_file, json.dumps(result, indent=2) + "\n")
    if json_file != "-":
        _print_scan(result)


def _print_scan(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    weights = Table(title=f"Super weights of {result['model']}")
    for column in ("coordinate", "value", "input", "output", "share", "rank in matrix", "token"):
        weights.add_column(column, justify="left" if column == "coordinate" else "right")
    for item in result["super_weights"]:
        numbers = (f"{item['value']:.6g}", f"{item['input']:.6g}", f"{item['output']:.6g}")
        share, rank = f"{item['share']:.1%}", str(item["rank"] or "?")
        weights.add_row(_place(item), *numbers, share, rank, str(item["token"]))
    if result["super_weights"]:
        console.print(weights)
    for item in result["super_activations"]:
        console.print(
            f"super activation: channel {item['channel']}, token {item['token']}, "
            f"blocks {item['onset']} to {item['last']}, magnitude {item['magnitude']:.6g}",
            highlight=False,
        )
    for item in result["cancellers"]:
        console.print(f"canceller: {_place(item)} = {item['value']:.6g}", highlight=False)
    room = result["head_room"]
    shares = ", ".join(f"{share:.2g} of what {dtype} holds" for dtype, share in room["share"].items())
    console.print(f"largest activation {room['largest']:.6g}: {shares}", highlight=False)
    console.print(f"{result['stop_reason']} after {result['passes']} passes", highlight=False)


def _literal(text: str) -> str:
    """Keep rich from reading square brackets as markup."""
    return text.replace("[", r"\[")


def _place(item: dict[str, Any]) -> str:
    """Write an item's coordinate, kept from being read as rich's markup."""
    indices = (item[name] for name in ("layer", "expert", "row", "col") if name in item)
    return _literal(f"[{', '.join(map(str, indices))}]")


@main.command()
@click.argument("model")
@click.option(
    "--at",
    "places",
    multiple=True,
    metavar="LAYER,ROW,COL",
    help="Read this scalar; LAYER,EXPERT,ROW,COL in a mixture of experts. Repeatable.",
)
@click.option("--directory", is_flag=True, help="Read every scalar that is published of MODEL.")
@click.option(
    "--json", "json_file", type=click.Path(allow_dash=True), help="Write the result there; - is stdout."
)
def read(model: str, places: tuple[str, ...], directory: bool, json_file: str | None) -> None:
    """Read scalars of MODEL straight from its files, without loading it.

    MODEL may also be a .safetensors file, hf://org/name[@revision], or the https address of a
    safetensors file or of a folder of them: of a remote file only the header and the bytes needed
    are brought.

    Example: superweight read smollm2-135m-instruct-q4_1 --directory
    """
    from harness.reading import as_dict
    from harness.reading import read as read_model

    result = read_model(model, [Coordinate.parse(place) for place in places], directory=directory)
    if json_file is not None:
        write(json_file, json.dumps(as_dict(result), indent=2) + "\n")
    if json_file != "-":
        _print_readings(result)


def _print_readings(result: Readings) -> None:
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


@main.command()
@click.argument("model")
@click.option("--base", metavar="MODEL", help="Expect the verdicts of this model.")
@click.option("--report", type=click.Path(path_type=Path), help="Write report.json and report.html there.")
@click.option(
    "--expect",
    type=click.Choice(["auto", "paper"]),
    default="auto",
    show_default=True,
    help="auto: the base, else the baseline, else the registry.",
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
def check(
    model: str,
    base: str | None,
    report: Path | None,
    expect: str,
    corpus: str,
    baselines: Path,
    device: str,
    dtype: str,
    trust: tuple[str, ...],
) -> None:
    """Judge every claim of the paper on MODEL and hold the verdicts to what is expected.

    Exit code 0: as expected; 1: not as expected; 4: bad input.

    Example: superweight check smollm2-135m-instruct-q4_1 --report out
    """
    from harness.checking import Request, check_model

    outcomes, provenance = check_model(
        Request(
            model=model,
            base=base,
            expect=expect,
            corpus=corpus,
            baselines=baselines,
            device=device,
            dtype=dtype,
            trust=trust,
        ),
        progress=progress,
    )
    _print_check(model, outcomes)
    if report is not None:
        from harness.report import verdict_row, write_report

        write_report(report, resolve(model).name, provenance, [verdict_row(outcome) for outcome in outcomes])
        click.echo(f"report: {report / 'report.html'}", err=True)
    if not all(outcome.as_expected for outcome in outcomes):
        raise SystemExit(EXIT_NOT_AS_EXPECTED)


def _print_check(model: str, outcomes: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from harness.expectations import explain

    console = Console()
    table = Table(title=_literal(f"Verdicts on {model}"))
    for column in ("claim", "verdict", "expected", "measured"):
        table.add_column(column)
    styles = {"supported": "green", "refuted": "red", "inconclusive": "yellow", "not applicable": "dim"}
    for outcome in outcomes:
        verdict = outcome.verdict
        expected = f"{outcome.expected} ({outcome.source})" if outcome.expected else "-"
        table.add_row(
            verdict.claim.id,
            f"[{styles[verdict.status]}]{verdict.status}[/]",
            expected,
            _literal(verdict.reason),
            style=None if outcome.as_expected else "bold",
        )
    console.print(table)
    unexpected = [outcome for outcome in outcomes if not outcome.as_expected]
    for outcome in unexpected:
        console.print(explain(model, outcome), markup=False, highlight=False)
    if all(outcome.expected is None for outcome in outcomes):
        console.print(
            "This model is met for the first time: nothing was compared. Keep these verdicts as its "
            "baseline with pytest --sw-model ... --snapshot-update, or hold it to --base or --expect paper.",
            highlight=False,
        )
    elif not unexpected:
        console.print(f"as expected: {len(outcomes)} of {len(outcomes)} claims", highlight=False)


@main.command()
def models() -> None:
    """List the registry: every known model, its source and its super weights.

    Example: superweight models
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Known models")
    table.add_column("model", no_wrap=True)  # a name is there to be copied
    for column in ("needs", "super weights", "cited"):
        table.add_column(column, overflow="fold")
    for entry in load_registry().values():
        places = ", ".join(str(scalar.coordinate) for scalar in entry.super_weights)
        table.add_row(entry.name, entry.tier, _literal(places) or "-", entry.cited or "-")
    Console().print(table)
