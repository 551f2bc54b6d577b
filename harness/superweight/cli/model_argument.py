"""Read a MODEL on the command line once, and let the shell complete it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from superweight.checkpoints.model_ref import ModelRef, parse_model
from superweight.checkpoints.registry import load_registry

if TYPE_CHECKING:
    _ParamType = click.ParamType[ModelRef]
else:
    _ParamType = click.ParamType  # takes no type argument in click 8.2


class ModelArgument(_ParamType):
    """The type of every argument and option that names a model."""

    name = "model"

    def convert(self, value: str | ModelRef, param: object, ctx: object) -> ModelRef:
        return value if isinstance(value, ModelRef) else parse_model(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer the registry's names, and files where none begins like that."""
        names = [CompletionItem(name) for name in load_registry() if name.startswith(incomplete)]
        return names or [CompletionItem(incomplete, type="file")]


MODEL = ModelArgument()
