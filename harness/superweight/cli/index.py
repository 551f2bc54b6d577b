"""Run the command ``superweight index``: merge indexes of fleets, and tell what differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from superweight.cli.options import write_output

if TYPE_CHECKING:
    from superweight.fleet.index import Document


@click.group()
def index() -> None:
    """Merge the index.json of several fleets, or tell what differs between two of them.

    Example: superweight index diff old.json new.json
    """


@index.command()
@click.argument("indexes", nargs=-1, required=True, metavar="INDEX...")
@click.option("--out", required=True, metavar="FILE", help="Write the index there; - is stdout.")
def merge(indexes: tuple[str, ...], out: str) -> None:
    """Write one index of all models that the INDEXes hold, the last judgement of each.

    Example: superweight index merge monday.json tuesday.json --out week.json
    """
    from superweight.fleet.index import index_json
    from superweight.fleet.index_sets import merged

    read = [_read(name) for name in indexes]
    rows = merged(read)
    write_output(out, index_json(rows, complete=all(each.complete for each in read)).decode())
    click.echo(f"{len(rows)} models", err=out == "-")


@index.command()
@click.argument("old")
@click.argument("new")
def diff(old: str, new: str) -> None:
    """Print, as Markdown, which models changed from OLD to NEW, which are new and which are gone.

    Example: superweight index diff old.json new.json
    """
    from superweight.fleet.index_sets import diff as difference

    click.echo(difference(_read(old), _read(new)).as_markdown(), nl=False)


def _read(name: str) -> Document:
    from superweight.checkpoints.index_registry import read_whole
    from superweight.fleet.index import read_index

    return read_index(read_whole(name), name)
