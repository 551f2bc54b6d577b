"""Define what the commands share: exit codes, common options, output files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from superweight.claims.run_config import RunConfig
from superweight.core.atomic import write_whole
from superweight.core.duration import parse_duration
from superweight.core.environment import DEVICES
from superweight.core.errors import BadInput
from superweight.core.resources import DEFAULT_BASELINES

if TYPE_CHECKING:
    from superweight.report.run_info import Stages

EXIT_NOT_AS_EXPECTED = 1  # damage, or verdicts not as expected, and nothing else
EXIT_CANNOT_JUDGE = 3  # here: not damage, and no mistake in what was typed
EXIT_BAD_INPUT = 4
EXIT_UNFORESEEN = 70  # as sysexits.h has it for an error in the software itself
EXIT_INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it

_Command = TypeVar("_Command", bound=Callable[..., Any])


_LOADING = (
    click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True),
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="auto: float32 on a CPU, the checkpoint's own on an accelerator.",
    ),
    click.option(
        "--trust",
        multiple=True,
        type=click.Choice(["pickle", "remote-code"]),
        help="Accept pickled weights, or code that a checkpoint brings.",
    ),
)
_CORPUS = click.option(
    "--corpus", default="builtin", show_default=True, help="builtin, wikitext2, a file or a folder."
)
_ENGINES = (
    click.option(
        "--engine",
        type=click.Choice(["transformers", "llama.cpp"]),
        default="transformers",
        show_default=True,
        help="What runs the model for predictions and text; llama.cpp runs .gguf files.",
    ),
    click.option(
        "--base-engine",
        type=click.Choice(["transformers", "llama.cpp"]),
        help="What runs the base; by default --engine where that runs its files, else transformers.",
    ),
)
_BASELINES = click.option(
    "--baselines",
    type=click.Path(path_type=Path),
    default=DEFAULT_BASELINES,
    show_default=True,
    help="Where committed baselines lie.",
)


def loading_options(command: _Command) -> _Command:
    """Give a command the options of how a model is loaded, as its ``setting``."""
    return _with(command, _LOADING)


def measuring_options(command: _Command) -> _Command:
    """Give a command those, and what a model is measured on."""
    return _with(command, (_CORPUS, *_LOADING))


def judging_options(command: _Command) -> _Command:
    """Give a command those, and what a model is held to."""
    return _with(command, (_CORPUS, _BASELINES, *_LOADING, *_ENGINES))


def _with(command: _Command, choices: Sequence[Callable[[Any], Any]]) -> _Command:
    @wraps(command)
    def gathered(**given: Any) -> Any:
        chosen = {item.name: given.pop(item.name) for item in fields(RunConfig) if item.name in given}
        return command(run_config=RunConfig(**chosen), **given)

    for option in reversed(choices):
        gathered = option(gathered)
    return cast(_Command, gathered)


class Duration(click.ParamType[float]):
    """A length of time on the command line, 60s or 10min, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return value if isinstance(value, float) else parse_duration(str(value))


def write_output(target: str, text: str) -> None:
    """Write a text whole or not at all; - is stdout. Raises `BadInput` where that cannot be done."""
    try:
        if target == "-":
            click.echo(text, nl=False)
        else:
            # What a link points at is replaced, not the link.
            write_whole({Path(target).resolve(): text.encode()})
    except OSError as error:
        raise BadInput(f"cannot write {target}: {error.strerror}") from error


def typed(context: click.Context) -> list[str]:
    """Return the words that call this command again: its arguments, and the options not left alone."""
    words = ["superweight", str(context.info_name)]
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if isinstance(parameter, click.Argument):
            words.append(str(value))
        elif value != parameter.get_default(context) and value not in (None, ()):
            values = value if isinstance(value, tuple) else (value,)
            flag = isinstance(parameter, click.Option) and parameter.is_flag
            for item in values:
                words += [parameter.opts[0]] if flag else [parameter.opts[0], str(item)]
    return words


def run_part(corpus: str, stages: Stages) -> dict[str, Any]:
    """Return what a report says of this very call: how it is made again, its stages, and its notes."""
    from superweight.report.run_info import run_of

    context = click.get_current_context()
    return run_of(typed(context), corpus, stages.seconds(), context.obj or ())


def literal(text: str) -> str:
    """Keep rich from reading square brackets as markup."""
    return text.replace("[", r"\[")
