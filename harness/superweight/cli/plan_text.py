"""Write the plan of a check as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from superweight.cli.options import literal

if TYPE_CHECKING:
    from superweight.claims.plan import Plan, Range


def print_plan(plan: Plan) -> None:
    """Print what each claim would measure, and what that costs at least and at most."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=literal(f"Plan of a check of {plan.model}"))
    for column in ("claims", "what", "conditions", "windows", "token-blocks", "seconds"):
        table.add_column(column)
    for step in plan.steps:
        table.add_row(
            ", ".join(step.claims),
            step.what,
            str(step.conditions),
            _span(step.windows) if step.windows.most else "-",
            _span(step.token_blocks),
            _span(step.seconds),
        )
    console.print(table)
    console.print(
        f"in all {_span(plan.token_blocks)} token-blocks of {plan.blocks} blocks, {_span(plan.seconds)} s "
        f"by one timed pass, {plan.memory / 2**30:.2g} GiB beside the weights. The least is for verdicts "
        "that the first look decides, the most for doubt to the end of the text.",
        highlight=False,
    )


def _span(extent: Range) -> str:
    low, high = (f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in (extent.least, extent.most))
    return low if low == high else f"{low} to {high}"
