"""Run the command ``superweight fleet``, thin over `superweight.fleet`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from superweight.cli.options import write_output
from superweight.core.errors import BadInput

if TYPE_CHECKING:
    from superweight.fleet import Counts, Result
    from superweight.fleet.fleet_file import Fleet

_REPORT = "report"
# Where no terminal shows a bar, a line each so many models.
_LINE_EVERY = 100


@click.command()
@click.argument("source", required=False, metavar="[FLEET.TOML]")
@click.argument("directory", required=False, metavar="")
@click.option("--out", metavar="DIR", help="Keep reports and the index there: a folder, s3://, gs://, hf://.")
@click.option("--org", help="Instead of a file: the models of an organisation on the hub.")
@click.option("--search", "words", help="Instead of a file: the models that the hub finds for these words.")
@click.option("--newer-than", metavar="TIME", help="With --org or --search: changed within 7d or 12h.")
@click.option(
    "--max-size", metavar="SIZE", help="With --org or --search: weights of at most 20GB, as stored."
)
@click.option(
    "--mode",
    type=click.Choice(["scan", "check"]),
    default="check",
    show_default=True,
    help="With --org or --search: what is done with each model.",
)
@click.option("--example", is_flag=True, help="Make twelve small models beside --out, and run those.")
@click.option("--address", help="A Ray cluster, ray://head:10001; by default Ray is started here.")
@click.option("--cpus", type=click.IntRange(min=1), help="Cores that Ray uses here; by default all.")
@click.option("--plan", is_flag=True, help="List what would run and what it needs, and run nothing.")
@click.option(
    "--json", "json_file", type=click.Path(allow_dash=True), help="With --plan: write it there; - is stdout."
)
def fleet(
    source: str | None,
    directory: str | None,
    out: str | None,
    org: str | None,
    words: str | None,
    newer_than: str | None,
    max_size: str | None,
    mode: str,
    example: bool,
    address: str | None,
    cpus: int | None,
    plan: bool,
    json_file: str | None,
) -> None:
    """Scan, check or compare many models over Ray, and keep an index of them.

    FLEET.TOML names the models. What is done with the same weights, options and version is not done
    again. "superweight fleet report DIR" writes the index of DIR anew. Exit code 0: all as expected; 1:
    some not; 3: some could not be judged; 4: bad input.

    Example: superweight fleet fleet.toml --out night
    """
    if source == _REPORT and directory is not None:
        _report(directory)
        return
    if directory is not None:
        raise BadInput(f"{directory!r} is one argument too many; give one fleet.toml, or report DIR")
    chosen = _chosen(source, out, org, words, newer_than, max_size, mode, example=example)
    if plan:
        _show_plan(chosen, json_file)
        return
    if json_file is not None:
        raise BadInput("--json writes the plan; give --plan as well, or read DIR/index.json")
    if out is None:
        raise BadInput("say with --out where reports and the index go")
    from superweight.fleet import run

    with _progress() as progress:
        result = run(chosen, out, address=address, cpus=cpus, progress=progress)
    _print_result(result)
    if result.exit_code:
        raise SystemExit(result.exit_code)


def _chosen(
    source: str | None,
    out: str | None,
    org: str | None,
    words: str | None,
    newer_than: str | None,
    max_size: str | None,
    mode: str,
    *,
    example: bool,
) -> Fleet:
    from superweight.fleet.fleet_file import Fleet, Options, SearchTable, read_fleet

    registries = tuple(click.get_current_context().meta.get("superweight.registries", ()))
    if sum((source is not None, org is not None or words is not None, example)) != 1:
        raise BadInput("give one of a fleet.toml, --org or --search, and --example")
    if example:
        from superweight.fleet.example import write_example

        if out is None or "://" in out:
            raise BadInput("--example writes its models beside --out; give it a folder")
        return read_fleet(write_example(Path(f"{out.rstrip('/')}-models")), registries)
    if source is not None:
        if newer_than or max_size:
            raise BadInput(
                "--newer-than and --max-size go with --org and --search; in a file, [[search]] has them"
            )
        return read_fleet(Path(source), registries)
    table = SearchTable(org=org, search=words, newer_than=newer_than, max_size=max_size)
    return Fleet((), (table,), Options(mode=mode), Path.cwd(), registries=registries)


def _report(directory: str) -> None:
    from superweight.fleet.index import gather
    from superweight.fleet.storage import Storage

    count = gather(Storage(directory if "://" in directory else str(Path(directory).absolute())))
    click.echo(f"{count} models: {directory.rstrip('/')}/index.html")


def _show_plan(chosen: Fleet, json_file: str | None) -> None:
    from superweight.fleet.plan import planned

    items = list(planned(chosen))
    if json_file is not None:
        write_output(json_file, json.dumps([item.as_dict() for item in items], indent=2) + "\n")
    if json_file == "-":
        return
    for item in items:
        stored = "size unknown" if item.size.stored is None else f"{item.size.stored / 1e9:.3g} GB stored"
        base = f" against {item.job.base}" if item.job.base else ""
        click.echo(f"{item.job.mode:<7}  {item.job.model}{base}: {stored}; asks for {item.needs}")
        if item.refusal:
            click.echo(f"         cannot be run: {item.refusal}")
    memory = max((item.needs.memory for item in items), default=0)
    gpus = max((item.needs.gpus for item in items), default=0)
    click.echo(f"{len(items)} models; the largest asks for {memory / 1e9:.3g} GB of memory and {gpus:g} GPUs")


def _print_result(result: Result) -> None:
    from superweight.fleet.row import STATUSES

    said = ", ".join(f"{result.counts[status]} {status}" for status in STATUSES if result.counts.get(status))
    done = f"; {result.reused} were done before" if result.reused else ""
    click.echo(f"{sum(result.counts.values())} models: {said}{done}")
    click.echo(f"{result.changed} changed since the last run")
    click.echo(f"index: {result.out}/index.html", err=True)


def said(counts: Counts) -> str:
    """Return how far a fleet is, in one line."""
    total = "" if counts.total is None else f" of {counts.total}"
    left = "" if counts.left is None else f", about {timedelta(seconds=round(counts.left))} left"
    failed = f"{counts.failed} not as expected or not judged"
    return f"{counts.done}{total} done, {counts.running} running, {failed}{left}"


@contextmanager
def _progress() -> Iterator[Callable[[Counts], None]]:
    """Yield what shows how far a fleet is: a bar on a terminal, a line now and then elsewhere."""
    from superweight.cli.progress import shows_bar

    if not shows_bar():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns: tuple[Any, ...] = (SpinnerColumn(), BarColumn(24), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("starting Ray", total=None)
        yield lambda counts: shown.update(
            task, total=counts.total, completed=counts.done, description=said(counts)
        )


def _lines() -> Callable[[Counts], None]:
    told = -1

    def tell(counts: Counts) -> None:
        nonlocal told
        step = counts.done // (_LINE_EVERY if (counts.total or _LINE_EVERY) >= _LINE_EVERY else 1)
        if step != told:
            told = step
            click.echo(f"  {said(counts)}", err=True)

    return tell
