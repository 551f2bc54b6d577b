"""What the commands share: exit codes, options that several take, and how they write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from harness.errors import BadInput
from harness.resources import DEFAULT_BASELINES

EXIT_NOT_AS_EXPECTED = 1
EXIT_BAD_INPUT = 4
EXIT_INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it

_Command = TypeVar("_Command", bound=Callable[..., Any])


def judging_options(command: _Command) -> _Command:
    """Give a command the options of what a model is measured on and held to."""
    choices = (
        click.option(
            "--corpus", default="builtin", show_default=True, help="builtin, wikitext2, a file or a folder."
        ),
        click.option(
            "--baselines",
            type=click.Path(path_type=Path),
            default=DEFAULT_BASELINES,
            show_default=True,
            help="Where committed baselines lie.",
        ),
    )
    return _with(command, choices)


def loading_options(command: _Command) -> _Command:
    """Give a command the options of how a model is loaded."""
    choices = (
        click.option(
            "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
        ),
        click.option(
            "--dtype",
            type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            default="auto",
            show_default=True,
            help="auto: float32 on a CPU, the checkpoint's own on cuda.",
        ),
        click.option(
            "--trust",
            multiple=True,
            type=click.Choice(["pickle", "remote-code"]),
            help="Accept pickled weights, or code that a checkpoint brings.",
        ),
    )
    return _with(command, choices)


def _with(command: _Command, choices: Sequence[Callable[[_Command], _Command]]) -> _Command:
    for option in reversed(choices):
        command = option(command)
    return command


def write(target: str, text: str) -> None:
    """Write a text whole or not at all; - is stdout. Raises `BadInput` where that cannot be done."""
    try:
        with click.open_file(target, "w", encoding="utf-8", atomic=target != "-") as file:
            file.write(text)
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
