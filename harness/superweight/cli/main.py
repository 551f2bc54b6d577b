"""Run the ``superweight`` command, and turn errors into exit codes."""

from __future__ import annotations

import atexit
import gc
import json
import traceback
from typing import Any

import click

from superweight import __version__
from superweight.cli.cache import cache
from superweight.cli.card import card
from superweight.cli.check import check
from superweight.cli.compare import compare
from superweight.cli.fleet import fleet
from superweight.cli.index import index
from superweight.cli.models import models
from superweight.cli.options import EXIT_BAD_INPUT, EXIT_CANNOT_JUDGE, EXIT_INTERRUPTED, EXIT_UNFORESEEN
from superweight.cli.protect import protect
from superweight.cli.read import read
from superweight.cli.registry_option import REGISTRY
from superweight.cli.repair import repair
from superweight.cli.report import render
from superweight.cli.scan import scan
from superweight.cli.sweep import sweep
from superweight.core.environment import versions
from superweight.core.errors import BadInput, EngineFailed, one_line
from superweight.core.run_notes import noted

# Objects made before the collector looks for circles: importing torch and transformers makes a million.
_COLLECTED_AFTER = 100_000
_PLEASE_REPORT = "please report it with the lines above and superweight --version --json"
_AS_JSON = "superweight.version_as_json"


class _Group(click.Group):
    """Turns the harness's own errors into one line and the exit code of the contract; tells its notes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:  # an option before the command: click would exit with 2
            click.echo(f"superweight: {error.format_message()}; see superweight --help", err=True)
            ctx.exit(EXIT_BAD_INPUT)

    def invoke(self, ctx: click.Context) -> Any:
        with noted() as ctx.obj:
            try:
                return self._with_exit_code(ctx)
            finally:
                for note in ctx.obj:
                    click.echo(f"note: {note}", err=True)

    def _with_exit_code(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("superweight: interrupted; no file was left half-written", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except EngineFailed as error:
            click.echo(f"superweight: cannot be judged here: {one_line(error)}", err=True)
            ctx.exit(EXIT_CANNOT_JUDGE)
        except BadInput as error:
            click.echo(f"superweight: {one_line(error)}", err=True)
            ctx.exit(EXIT_BAD_INPUT)
        except click.UsageError as error:
            click.echo(f"superweight: {error.format_message()}; see superweight --help", err=True)
            ctx.exit(EXIT_BAD_INPUT)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except Exception as error:
            # Exit code 1 is damage: an error nobody foresaw must not be taken for it.
            traceback.print_exc()
            what = one_line(error) or type(error).__name__
            click.echo(f"superweight: an error that nobody foresaw: {what}; {_PLEASE_REPORT}", err=True)
            ctx.exit(EXIT_UNFORESEEN)


def _as_json(context: click.Context, option: click.Parameter, given: object) -> None:
    context.meta[_AS_JSON] = given


def _show_version(context: click.Context, option: click.Parameter, given: object) -> None:
    """Print the version; `--json` is eager, so that it is known by now wherever it stands."""
    if context.resilient_parsing:
        return
    if not given:
        if context.meta[_AS_JSON]:
            raise click.UsageError("--json belongs behind a command, or beside --version")
        return
    if context.meta[_AS_JSON]:
        click.echo(json.dumps(versions(__version__), indent=2))
    else:
        click.echo(f"superweight, version {__version__}")
    context.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--json",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_as_json,
    help="With --version: as JSON.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit; with --json those of Python and of every package that counts, too.",
)
def main() -> None:
    """Find, prune and judge the super weights of a language model.

    MODEL is a registry name (see "superweight models"), NAME=PATH for a registry model whose files
    lie at PATH, org/name[@revision] on the hub, a directory, or a .gguf file.

    Example: superweight check smollm2-135m-instruct-q4_1 --report out
    """


for command in (
    scan,
    check,
    read,
    compare,
    repair,
    protect,
    card,
    render,
    sweep,
    models,
    fleet,
    index,
    cache,
):
    main.add_command(command)
for command in (scan, check, read, compare, repair, protect, sweep, models, fleet):
    command.params.append(REGISTRY)


def run() -> None:
    """Run the command in a process of its own, which neither begins nor ends in the garbage collector.

    That saves half a second of importing, and as much at the end, where all that was imported would be
    looked through once more.
    """
    gc.set_threshold(_COLLECTED_AFTER)
    atexit.register(gc.freeze)
    main()
