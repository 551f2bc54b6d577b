"""Run the command ``superweight cache``."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click

from superweight.checkpoints.cache import cache_directory
from superweight.checkpoints.cache_entries import Entry, entries, limit, remove
from superweight.cli.options import literal, write_output


@click.command()
@click.option("--clear", is_flag=True, help="Remove everything; what another run is making stays.")
@click.option(
    "--unused-for",
    "days",
    type=click.FloatRange(min=0),
    help="List, or with --clear remove, only what was not used for so many days.",
)
@click.option(
    "--json", "json_file", type=click.Path(allow_dash=True), help="Write the list there; - is stdout."
)
def cache(clear: bool, days: float | None, json_file: str | None) -> None:
    """List what was downloaded and converted, and how large it is, or empty it.

    What was not used for longest goes by itself when the cache grows above SUPERWEIGHT_CACHE_LIMIT
    (20GB where it is not set). Everything in it is made again when it is needed.

    Example: superweight cache
    """
    now = datetime.now(UTC).timestamp()
    chosen = [entry for entry in entries() if days is None or now - entry.used >= days * 86400]
    gone = set(remove(chosen)) if clear else set()
    if json_file is not None:
        document = {
            "directory": str(cache_directory()),
            "limit": limit(),
            "bytes": sum(entry.size for entry in chosen),
            "entries": [_as_dict(entry, removed=entry in gone) for entry in chosen],
        }
        write_output(json_file, json.dumps(document, indent=2) + "\n")
    if json_file != "-":
        _print(chosen, gone if clear else None)


def _as_dict(entry: Entry, *, removed: bool) -> dict[str, object]:
    return {
        "kind": entry.kind,
        "made_from": entry.made_from,
        "path": str(entry.path),
        "bytes": entry.size,
        "used": datetime.fromtimestamp(entry.used, UTC).isoformat(timespec="seconds"),
        "removed": removed,
    }


def _print(chosen: list[Entry], gone: set[Entry] | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Cache {literal(str(cache_directory()))}")
    table.add_column("kind", no_wrap=True)
    table.add_column("made from", overflow="fold")
    for column in ("size", "last used"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in chosen:
        used = datetime.fromtimestamp(entry.used, UTC).strftime("%Y-%m-%d %H:%M")
        table.add_row(entry.kind, literal(entry.made_from), f"{entry.size / 1e9:.3f} GB", used)
    console = Console()
    if chosen:
        console.print(table)
    total = sum(entry.size for entry in chosen)
    if gone is None:
        words = f"{len(chosen)} entries of {total / 1e9:.3f} GB; the limit is {limit() / 1e9:.3g} GB"
    else:
        freed = sum(entry.size for entry in gone)
        words = f"{len(gone)} of {len(chosen)} entries removed, {freed / 1e9:.3f} GB freed"
    console.print(words, highlight=False)
