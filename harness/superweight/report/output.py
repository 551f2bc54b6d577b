"""Write a report to disk: report.json, report.html and the figures, each whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from superweight.core.atomic import write_whole
from superweight.core.errors import BadInput
from superweight.report.document import dumped
from superweight.report.figures import charts
from superweight.report.html import page, subjects
from superweight.report.privacy import without_home
from superweight.report.render import drawn


def write_report(directory: Path, document: Mapping[str, Any], *, with_json: bool = True) -> None:
    """Write ``report.json``, ``report.html`` and ``figures/`` into ``directory``.

    Everything is made before anything is written, and every file is renamed into place. Raises
    `BadInput` when the directory cannot be written.
    """
    document = without_home(document)
    contents = rendered(document)
    if with_json:
        contents["report.json"] = dumped(document).encode()
    try:
        (directory / "figures").mkdir(parents=True, exist_ok=True)
        write_whole({directory / name: content for name, content in contents.items()})
    except OSError as error:
        raise BadInput(f"cannot write the report to {directory}: {error.strerror or error}") from error


def rendered(document: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files that a document gives, by their path in the report's folder."""
    contents: dict[str, bytes] = {}
    pictures: dict[str, str] = {}
    for place, subject in enumerate(subjects(document)):
        for chart in charts(subject):
            key = f"{place + 1}-{chart.key}"
            picture = drawn(chart, key)
            pictures[key] = picture.inline
            contents |= {f"figures/{key}.svg": picture.svg, f"figures/{key}.png": picture.png}
    return {"report.html": page(document, pictures).encode()} | contents
