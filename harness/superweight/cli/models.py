"""Run the command ``superweight models``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from superweight.checkpoints.registry import ModelEntry, load_registry
from superweight.cli.model_argument import MODEL
from superweight.cli.options import EXIT_BAD_INPUT, EXIT_NOT_AS_EXPECTED, literal, write_output
from superweight.core.environment import in_ci
from superweight.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from superweight.checkpoints.model_ref import ModelRef
    from superweight.checkpoints.verify import Verification
    from superweight.claims.scan_verification import ScanVerification


@click.command()
@click.argument("names", nargs=-1, metavar="[MODEL]...", type=MODEL)
@click.option("--verify", is_flag=True, help="Hold what is published to the files of each model.")
@click.option(
    "--scan",
    "by_scan",
    is_flag=True,
    help="Hold it to a scan as well, of which the first blocks are brought. With --verify.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(allow_dash=True),
    help="Write what was verified there; - is stdout. With --verify.",
)
def models(names: tuple[ModelRef, ...], verify: bool, by_scan: bool, json_file: str | None) -> None:
    """List the registry, or the MODELs named: source, memory need, super weights.

    With --verify their scalars are read from the files, here or on the hub, range by range: no
    model is loaded. With --scan each is also run, block by block and no further than the answer
    needs, and what is found is held to what is published. What cannot be reached is said. Exit code
    0: all that was reached agrees; 1: a published value is not in the files, or a scan finds
    otherwise; 4: nothing was reached, or, under CI, not everything.

    Example: superweight models --verify
    """
    entries = [name.entry for name in names] or list(load_registry().values())
    if verify:
        _verify(entries, json_file, by_scan=by_scan)
    elif by_scan:
        raise BadInput("--scan is about what is published; give --verify as well")
    elif json_file is not None:
        raise BadInput("--json writes what was verified; give --verify as well")
    else:
        _print_models(entries)


def _verified(
    entry: ModelEntry, verify_entry: Callable[[ModelEntry], Verification], *, by_scan: bool
) -> Iterator[Verification | ScanVerification]:
    """Yield what the files say, and what a scan says of those that were reached."""
    from superweight.checkpoints.verify import UNREACHABLE

    read = verify_entry(entry)
    yield read
    if by_scan and read.status != UNREACHABLE:
        from superweight.claims.scan_verification import verify_by_scan

        yield verify_by_scan(entry)


def _print_models(entries: list[ModelEntry]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Known models")
    table.add_column("model", no_wrap=True)  # a name is there to be copied
    for column in ("needs", "weights"):
        table.add_column(column, no_wrap=True)
    for column in ("super weights", "cited"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        places = ", ".join(str(scalar.coordinate) for scalar in entry.super_weights)
        needs = entry.tier + (", gated" if entry.gated else "")
        weights = entry.weight_bytes()
        size = "-" if weights is None else f"{weights / 2**30:.3g} GiB"
        cited = " or ".join(dict.fromkeys(str(reading.cited) for reading in entry.readings))
        table.add_row(entry.name, needs, size, literal(places) or "-", cited or entry.cited or "-")
    Console().print(table)


def _verify(entries: list[ModelEntry], json_file: str | None, *, by_scan: bool) -> None:
    from superweight.checkpoints.verify import AGREES, DISAGREES, NOTHING, UNREACHABLE
    from superweight.checkpoints.verify import verify as verify_entry

    done: list[Verification | ScanVerification] = []
    for entry in entries:
        for item in _verified(entry, verify_entry, by_scan=by_scan):
            done.append(item)
            # Written as they come: a hub that does not answer takes its time.
            for line in item.lines():
                click.echo(line, err=json_file == "-")
    if json_file is not None:
        write_output(json_file, json.dumps([item.as_dict() for item in done], indent=2) + "\n")
    counts = {name: sum(item.status == name for item in done) for name in (AGREES, DISAGREES, NOTHING)}
    missed = sum(item.status == UNREACHABLE for item in done)
    summary = ", ".join(f"{name}: {count}" for name, count in [*counts.items(), (UNREACHABLE, missed)])
    what = f"{len(entries)} models" + (", read and scanned" if by_scan else "")
    click.echo(f"{what}; {summary}", err=json_file == "-")
    if counts[DISAGREES]:
        raise SystemExit(EXIT_NOT_AS_EXPECTED)
    if missed == len(done) or (missed and in_ci()):
        raise SystemExit(EXIT_BAD_INPUT)
