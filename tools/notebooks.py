"""Runs the notebooks of examples/ on the real model and keeps their outputs, which the site shows.

    python -m tools.notebooks [MODEL]

A notebook loads the model that ``SUPERWEIGHT_MODEL`` names; without it, the real one. Which model the
stored outputs are of is kept in the notebook, and the site says it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import nbformat
from nbclient import NotebookClient

from superweight.core.atomic import write_whole

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
REAL = "smollm2-135m-instruct-q4_1"
TIMEOUT = 3600  # seconds a cell: the real model on a busy machine


def main(arguments: list[str]) -> int:
    """Run all notebooks on a model, by default the real one, and write them with their outputs."""
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        print(path.name, file=sys.stderr)
        notebook = executed(path, *(arguments or [REAL]))
        write_whole({path: f"{nbformat.writes(notebook)}\n".encode()})
    return 0


def executed(path: Path, model: str) -> nbformat.NotebookNode:
    """Return a notebook with the outputs of all its cells on a model, run in an empty folder.

    Raises `nbclient.exceptions.CellExecutionError` with the traceback of a cell that fails.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    variables = {"SUPERWEIGHT_MODEL": model, "IPYTHONDIR": "", "CI": ""}
    with TemporaryDirectory() as folder, patch.dict(os.environ, {**variables, "IPYTHONDIR": folder}):
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources=resources).execute()
    notebook.metadata["superweight"] = {"model": model}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran is no result
        if cell.cell_type == "code":
            # Bars and notes are stderr's, and differ from run to run.
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
