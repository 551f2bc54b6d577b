"""What a shell offers for MODEL: the registry's names, and files where none begins like that."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from superweight.checkpoints.registry import load_registry


def complete_model(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Return what a shell may put in place of ``typed``."""
    names = [CompletionItem(name) for name in load_registry() if name.startswith(typed)]
    return names or [CompletionItem(typed, type="file")]
