"""Define ``--registry``, which adds models to those that are known before any MODEL is read."""

from __future__ import annotations

from pathlib import Path

import click

from superweight.checkpoints.index_registry import also_reading

SOURCES = "superweight.registries"


def _add(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Read the registries for as long as the command runs; eager, so that every MODEL knows them."""
    if given and not context.resilient_parsing:
        # Nodes read them too, whose working directory is another one.
        context.meta[SOURCES] = tuple(each if "://" in each else str(Path(each).absolute()) for each in given)
        context.with_resource(also_reading(given))
    return given


REGISTRY = click.Option(
    ["--registry"],
    multiple=True,
    metavar="FILE|URL",
    is_eager=True,
    expose_value=False,
    callback=_add,
    help="Know the models of an index.json or a models.toml as well. Repeatable.",
)
