"""What the site shows by example: the tutorial's outputs, the notebooks, the gallery."""

from __future__ import annotations

import json
import re

import pytest

from superweight.report.document import read_document
from tools import gallery, tutorial

nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install '.[docs]'")

from tools import notebooks  # noqa: E402

NOTEBOOKS = sorted(notebooks.EXAMPLES.glob("*.ipynb"))
PAGE = """Text.

```python title="hello.py"
print("two", 2.0)
```

```console
$ python hello.py
two 1.0
$ echo done; exit {code}
```
"""


def test_the_tutorial_shows_what_its_commands_print():
    """A file is written, each command runs, and its output takes the place of the older one."""
    made = tutorial.performed(PAGE.format(code=0))
    assert "$ python hello.py\ntwo 2.0\n\n$ echo done; exit 0\ndone\n```" in made


def test_a_command_of_the_tutorial_that_fails_is_an_error():
    """An example that does not run is red, whatever the page shows."""
    with pytest.raises(tutorial.CommandFailed, match="`echo done; exit 3` exits 3"):
        tutorial.performed(PAGE.format(code=3))


@pytest.mark.parametrize(
    ("shown", "printed", "count"),
    [
        ("perplexity 12.0", "perplexity 12.4", 0),
        ("perplexity 12.0", "perplexity 13.0", 1),
        ("rises by x85,224", "rises by x85,001", 0),
        ("C9 refuted", "C9 supported", 1),
        ("one", "one\ntwo", 1),
        ("| 1.5   |", "| 1.55  |", 0),
        ("[11, 507, 1229]", "[12, 507, 1229]", 1),
    ],
)
def test_a_difference_is_a_word_or_a_number_beyond_the_tolerance(shown, printed, count):
    """Numbers within 5 % are the same: another processor sums in another order."""
    assert count == len(list(tutorial.differences(shown, printed)))


def test_the_tutorial_has_an_output_below_each_command():
    """Every command of the page but one that saves files was run, and prints something."""
    text = tutorial.PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    outputs = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    assert 6 < len(outputs)
    silent = [part.strip() for part in outputs if len(part.strip().splitlines()) < 2]
    assert ["python releases.py"] == silent


@pytest.mark.slow
@pytest.mark.checkpoint
def test_the_tutorial_is_true_here():
    """On this machine its commands print what the page shows."""
    assert 0 == tutorial.main(["--check"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_on_the_tiny_model(path, tmp_path, monkeypatch, superweight):
    """Cell after cell in this process: nothing is imported anew. nbclient runs it in the long tests."""
    monkeypatch.setenv("SUPERWEIGHT_MODEL", "tiny-planted")
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, path.name, "exec"), names)  # noqa: S102  # the repository's own
    if "figures" in names:
        assert {"magnitudes", "activation", "next-token", "scaling"} <= names["figures"].keys()
        assert names["intact"] * 10 < names["pruned"]
    else:
        assert ("kept", "damaged") == (names["sound"].verdict, names["lost"].verdict)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", ["tiny-planted", pytest.param(notebooks.REAL, marks=pytest.mark.checkpoint)]
)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_as_a_reader_runs_it(path, model):
    """By a kernel of its own, on the tiny and the real model: every cell but the imports shows something."""
    cells = [cell for cell in notebooks.executed(path, model).cells if cell.cell_type == "code"]
    assert len(cells) - 1 <= sum(bool(cell.outputs) for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_its_outputs(path):
    """What the site shows was made by running it: the figures are there, and no error."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert len(cells) - 1 <= sum(bool(cell.outputs) for cell in cells)
    assert {"error"}.isdisjoint(output.output_type for output in outputs)


def test_each_report_of_the_gallery_is_one_that_is_read():
    """Each is stored, keeps to the schema, and names the command that the gallery shows."""
    stored = {path.stem for path in gallery.GALLERY.glob("*.json")}
    assert stored == {example.name for example in gallery.EXAMPLES}
    for example in gallery.EXAMPLES:
        document = read_document(gallery.GALLERY / f"{example.name}.json")
        assert example.command == document["run"]["command"]


def test_a_report_of_the_gallery_is_made_by_its_command(tmp_path, superweight):
    """The cheapest of them, anew: its verdicts are those that are stored."""
    example = next(each for each in gallery.EXAMPLES if each.name == "tiny-plain")
    made = gallery.make(example, tmp_path)
    stored = json.loads((gallery.GALLERY / "tiny-plain.json").read_text(encoding="utf-8"))
    assert [row["status"] for row in stored["verdicts"]] == [row["status"] for row in made["verdicts"]]


def test_the_gallery_refuses_a_report_that_ends_otherwise(tmp_path, superweight):
    """A sound comparison stored as a damaged one would be a false example."""
    example = gallery.Example("false", "False", ("scan", "no-such-model"), 0, "")
    with pytest.raises(RuntimeError, match="exits 4, not 0"):
        gallery.make(example, tmp_path)
    assert [] == list(tmp_path.iterdir())
