"""The command ``superweight sweep``: thin, over `harness.quantization.sweep`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.options import loading_options, write
from harness.progress import SWEEP, progressing


@click.command()
@click.argument("model")
@click.option(
    "--json", "json_file", type=click.Path(allow_dash=True), help="Write the result there; - is stdout."
)
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    help="Rewrite the tables between the marks of this page, and the .svg beside it.",
)
@click.option("--real", is_flag=True, help="Measure torchao and bitsandbytes as well, where they run.")
@click.option(
    "--corpus", default="builtin", show_default=True, help="builtin, wikitext2, a file or a folder."
)
@loading_options
def sweep(
    model: str,
    json_file: str | None,
    page: Path | None,
    real: bool,
    corpus: str,
    device: str,
    dtype: str,
    trust: tuple[str, ...],
) -> None:
    """Tell which rounding schemes keep MODEL alive, and what holding out its super weights buys.

    INT4 weights in blocks of 64 to 1,048,576, and INT8 weights and activations; perplexity of each.

    Example: superweight sweep smollm2-135m-instruct-q4_1
    """
    from harness.corpus import WINDOWS, cut, default_prompt, documents
    from harness.loading import load
    from harness.quantization.measuring import CALIBRATION, split
    from harness.quantization.page import as_document, dumped, table, write_page
    from harness.quantization.real_sweep import real_sweep
    from harness.quantization.sweep import sweep as sweep_subject
    from harness.registry import resolve
    from harness.scanning import scan

    subject = load(resolve(model), device=device, dtype=dtype, trust=trust)
    windows = cut(subject, documents(corpus), corpus, count=WINDOWS + CALIBRATION)
    text = split(windows, WINDOWS)
    found = scan(subject, default_prompt())
    with progressing(SWEEP) as progress:
        losses = sweep_subject(subject, found, text, progress)
        quantised = real_sweep(subject, found, text, progress=progress) if real else ()
    document = as_document(subject, losses, quantised)
    if page is not None:
        write_page(page, document)
    if json_file is not None:
        write(json_file, dumped(document))
    if json_file != "-":
        click.echo(table(document), nl=False)
