"""Write the block of a model card, where super weights are and what keeps them, from report.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from superweight.core.errors import BadInput
from superweight.core.markdown import cell, rewritten_between, table
from superweight.core.readable import readable, times, titled
from superweight.report.html import subjects
from superweight.report.privacy import without_home

BEGIN, END = "<!-- superweight: begin -->", "<!-- superweight: end -->"
TAG = "super-weights"
_PROJECT = "superweight-harness"
_PAPER = "[arXiv 2411.07191](https://arxiv.org/abs/2411.07191)"
# Beyond this a scheme is said to lose the model: the limit of `superweight compare`.
_KEPT = 1.5


def card(document: Mapping[str, Any]) -> str:
    """Return the block in Markdown: what a scan found, what it carries, what keeps it, how to reproduce.

    ``document`` is report.json of `superweight check` or of `superweight compare`. Raises `BadInput`
    for a report in which no model was measured.
    """
    document = without_home(document)
    shown = [subject for subject in subjects(document) if "observed" in subject]
    if not shown:
        raise BadInput(
            "the report holds no measured model; make it with superweight check MODEL --report DIR"
        )
    subject = shown[-1]
    lines = ["## Super weights", "", _where(subject), "", *_carried(subject)]
    if (comparison := document.get("comparison")) is not None:
        base, verdict = titled(comparison["base"]), comparison["verdict"]
        lines += [f"Against `{cell(base)}` they are **{verdict}** (`superweight compare`).", ""]
    lines += _roundings(subject)
    return "\n".join([*lines, *_reproduced(document, subject)]) + "\n"


def _where(subject: Mapping[str, Any]) -> str:
    places = subject["observed"]["super_weights"]
    if not places:
        return f"No super weights ({_PAPER}) were found: no single scalar carries this model."
    one = len(places) == 1
    what, make = ("scalar", "makes") if one else ("scalars", "make")
    named = "; ".join(f"`{item['at']}` = {readable(item['value'])}" for item in places)
    return (
        f"{len(places)} {what} of `mlp.down_proj` ([block, row, column]) {make} the super activation of this "
        f"model ({_PAPER}): {named}."
    )


def _carried(subject: Mapping[str, Any]) -> list[str]:
    observed = subject["observed"]
    lines = []
    if (activation := observed.get("activation")) is not None:
        lines.append(
            f"The activation stands on channel {activation['channel']}, from block {activation['onset']} to "
            f"{activation['last']}."
        )
    conditions = observed.get("effect", {}).get("conditions", [])
    pruned = next((item for item in conditions if item["condition"] == "pruned"), None)
    if pruned is not None:
        low, high = (times(value) for value in pruned["interval"])
        lines.append(
            f"Without them perplexity is {times(pruned['perplexity_ratio'])} ({low} to {high}, "
            f"{observed['effect']['windows']} windows of text)."
        )
    return [" ".join(lines), ""] if lines else []


def _roundings(subject: Mapping[str, Any]) -> list[str]:
    rows = [row for row in subject.get("sweep", []) if not (row["scheme"] == "INT4" and row["held_out"])]
    if not rows:
        return []
    cells = []
    for row in rows:
        scheme = row["scheme"] if row["block"] is None else f"{row['scheme']}, blocks of {row['block']:,}"
        verdict = "keeps the model" if row["perplexity_ratio"] <= _KEPT else "loses the model"
        cells.append((cell(scheme), times(row["perplexity_ratio"]), verdict))
    columns = ("rounding", "perplexity", "")
    return [
        "Plain round-to-nearest of all linear maps, perplexity over the intact model's:",
        "",
        *table(columns, cells),
        "",
    ]


def _reproduced(document: Mapping[str, Any], subject: Mapping[str, Any]) -> list[str]:
    run = document.get("run") or {}
    command = run.get("command") or f"superweight check {subject['model']}"
    provenance = subject["provenance"]
    said = [
        f"{name} {provenance[name]}"
        for name in ("dtype", "device", "torch", "transformers")
        if provenance.get(name)
    ]
    digest = provenance.get("weights_sha256")
    weights = f"; weights SHA-256 `{digest[:16]}`" if digest else ""
    return [
        f"Measured with {_PROJECT} {provenance.get('harness', '')} ({', '.join(said)}{weights}):".replace(
            "  ", " "
        ),
        "",
        f"    pip install {_PROJECT}",
        f"    {' '.join(command.split())}",
    ]


def metadata(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the hub's metadata is given: a tag, and the base where the report names one.

    >>> metadata({"model": "m", "verdicts": []})
    {'tags': ['super-weights']}
    """
    base = (document.get("comparison") or {}).get("base") or (document.get("base") or {}).get("model")
    # The hub knows models by org/name alone.
    named = (
        {"base_model": base}
        if isinstance(base, str) and base.count("/") == 1 and base[0] not in "./~"
        else {}
    )
    return {"tags": [TAG], **named}


def whole_card(document: Mapping[str, Any]) -> str:
    """Return a card by itself: the hub's metadata, and the block between its marks."""
    from huggingface_hub import ModelCardData

    head = ModelCardData(**metadata(document)).to_yaml()
    return f"---\n{head}\n---\n\n{BEGIN}\n\n{card(document)}\n{END}\n"


def updated_card(path: Path, document: Mapping[str, Any]) -> str:
    """Return the text of a README with the block between its marks, and the tag in its metadata.

    All else stays as it is. Raises `BadInput` for a file that cannot be read, or lacks the marks.
    """
    try:
        text = rewritten_between(path, BEGIN, END, f"\n\n{card(document)}\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    return _tagged(text, metadata(document))


def _tagged(text: str, given: Mapping[str, Any]) -> str:
    """Return a card with what its metadata lacks; metadata that lacks nothing keeps its very lines."""
    from huggingface_hub import ModelCard

    parsed: Any = ModelCard(text, ignore_metadata_errors=True)
    tags = list(parsed.data.tags or [])
    missing = [tag for tag in given["tags"] if tag not in tags]
    base = None if parsed.data.base_model else given.get("base_model")
    if not missing and base is None:
        return text
    parsed.data.tags = tags + missing
    if base is not None:
        parsed.data.base_model = base
    return str(parsed)
