"""Figures compared by the data they draw, never by pixels; a hostile token stays text in all of them."""

import json
from xml.etree import ElementTree

import jsonschema
import pytest

from superweight.report.chart_spec import brief
from superweight.report.document import of_model, read_document, schema
from superweight.report.figures import charts
from superweight.report.html import page
from superweight.report.output import rendered, write_report
from superweight.report.privacy import command_line, without_home
from superweight.report.render import drawn, plotted

HOSTILE = '</g>$x_1$ #010203 id="a"'
SCALAR = {"at": "[1, 2, 3]", "layer": 1, "value": 4.0}


@pytest.fixture
def document():
    """A small model's document with every part in it."""
    observed = {
        "prompt": "Some prompt.",
        "blocks": 3,
        "super_weights": [dict(SCALAR)],
        "cancellers": [SCALAR | {"at": "[2, 2, 9]", "layer": 2}],
        "magnitudes": {
            "intact": {"input": [1.0, 40.0, 2.0], "output": [2.0, 160.0, 3.0]},
            "pruned": {"input": [1.0, 39.0, 2.0], "output": [2.0, 5.0, 3.0]},
        },
        "activation": {
            "channel": 2,
            "token": 0,
            "onset": 1,
            "last": 2,
            "courses": [
                {"condition": "intact", "values": [0.5, -160.0, -159.0]},
                {"condition": "pruned", "values": [0.5, -3.0, -3.5]},
                {"condition": "a control", "values": [0.5, -160.0, -158.0]},
            ],
        },
        "next_token": {
            "context": "Some",
            "top": [
                {"token": " a", "intact": 0.6, "pruned": 0.1},
                {"token": "\n", "intact": 0, "pruned": 0.7},
            ],
        },
        "words": [{"group": "stopword", "word": "the", "intact": 0.02, "pruned": 0.05}],
        "writings": [{"prompt": "Once", "intact": "upon", "pruned": "the the", "restored": "upon"}],
        "scaling": [
            {"factor": 0.0, "perplexity_ratio": 50.0, "interval": [40.0, 60.0]},
            {"factor": 1.0, "perplexity_ratio": 1.0, "interval": [1.0, 1.0]},
        ],
    }
    sweep = [
        {"scheme": "int4", "block": 64, "held_out": held, "perplexity_ratio": 2.0 - held, "interval": [1, 3]}
        for held in (False, True)
    ]
    return of_model("m", {}, [], observed=observed) | {"sweep": sweep}


def lines(axes):
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def test_the_example_has_every_part_and_fits_the_schema(document):
    """All figures are made of it, so that the tests below see them all."""
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(document, schema())
    keys = ["magnitudes", "activation", "next-token", "words", "scaling", "sweep"]
    assert keys == [chart.key for chart in charts(document)]


def test_the_curves_are_the_documents_numbers(document):
    """What matplotlib holds is what report.json holds, condition by condition."""
    by_key = {chart.key: plotted(chart).axes for chart in charts(document)}
    for axes, what in zip(by_key["magnitudes"], ("input", "output"), strict=True):
        expected = {
            name: ([0, 1, 2], values[what]) for name, values in document["observed"]["magnitudes"].items()
        }
        assert expected == lines(axes)
    courses = document["observed"]["activation"]["courses"]
    expected = {course["condition"]: ([0, 1, 2], course["values"]) for course in courses}
    assert expected == lines(by_key["activation"][0])
    assert {"scaled": ([0.0, 1.0], [50.0, 1.0])} == lines(by_key["scaling"][0])


def test_bars_end_at_the_probabilities(document):
    """Bars lie along x, one condition beside the other."""
    axes = {chart.key: plotted(chart).axes[0] for chart in charts(document)}["next-token"]
    assert {"intact": [0.6, 0.0], "pruned": [0.1, 0.7]} == {
        name: values for name, (values, _) in lines(axes).items()
    }
    assert ["␣a", "↵"] == [label.get_text() for label in axes.get_yticklabels()]


def test_super_weights_are_marked_where_they_are(document):
    """The mark stands on the intact curve, with the coordinate beside it."""
    inputs, outputs = charts(document)[0].panels
    assert [(1, 40.0, "[1, 2, 3]")] == [(mark.x, mark.y, mark.label) for mark in inputs.marks]
    assert [(1, 160.0, "[1, 2, 3]")] == [(mark.x, mark.y, mark.label) for mark in outputs.marks]
    assert "[1, 2, 3]" in [text.get_text() for text in plotted(charts(document)[0]).axes[0].texts]


def test_every_number_drawn_stands_in_the_table(document):
    """The text alternative is complete: whoever cannot see the figure reads the same numbers."""
    for chart in charts(document):
        cells = {cell for row in chart.rows for cell in row}
        drawn_numbers = {f"{y:.4g}" for panel in chart.panels for curve in panel.curves for y in curve.y}
        assert drawn_numbers <= cells, chart.key
        assert all(len(chart.columns) == len(row) for row in chart.rows)
        assert chart.caption


def test_hostile_tokens_stay_text_in_figures(document):
    """Markup, TeX, ids and the drawing's own colour come out of the SVG as they went in."""
    document["observed"]["next_token"]["top"][0]["token"] = HOSTILE
    document["observed"]["writings"][0]["pruned"] = HOSTILE
    document["observed"]["super_weights"][0]["at"] = HOSTILE
    for chart in charts(document)[:3:2]:
        picture = drawn(chart, "k")
        for text in (picture.svg.decode(), picture.inline):
            root = ElementTree.fromstring(text)  # noqa: S314
            shown = HOSTILE.replace(" ", "␣") if chart.key == "next-token" else HOSTILE
            assert brief(shown) in list(root.itertext())
            assert "script" not in {element.tag.rsplit("}")[-1] for element in root.iter()}
    assert "<script" not in page(
        document, {chart.key: "" for chart in charts(document)} | _pictures(document)
    )


def _pictures(document):
    return {f"1-{chart.key}": drawn(chart, f"1-{chart.key}").inline for chart in charts(document)}


def test_the_report_made_again_is_the_same_in_every_byte(document, tmp_path):
    """Page and figures need report.json and nothing else; nothing in them is random or a date."""
    write_report(tmp_path / "first", document)
    write_report(tmp_path / "second", read_document(tmp_path / "first" / "report.json"))
    first = {path.name: path.read_bytes() for path in (tmp_path / "first").rglob("*.*")}
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "second").rglob("*.*")}
    assert 6 * 2 + 2 == len(first)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("provenance"), "'provenance' is a required property"),
        (lambda d: d["observed"].update(blocks=4), "has 4 blocks, its data other ones"),
        (lambda d: d["observed"]["super_weights"][0].update(layer=9), "its data other ones"),
        (lambda d: d["observed"]["activation"]["courses"].pop(0), "no intact course"),
        (lambda d: d["observed"]["scaling"][0].update(perplexity_ratio="x"), "perplexity_ratio"),
    ],
)
def test_a_file_that_is_no_report_is_refused(document, tmp_path, refusal, change, words):
    """One line with the file, the place and what is wrong."""
    change(document)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(document))
    line = refusal(read_document, path)
    assert str(path) in line
    assert words in line


@pytest.mark.parametrize("text", ["", "{", '{"model": NaN}', "[" * 100_000])
def test_a_file_that_is_no_json_is_refused(tmp_path, refusal, text):
    """Broken, endless or not quite JSON: one line that names the file."""
    path = tmp_path / "report.json"
    path.write_text(text)
    assert f"cannot read the report {path}" in refusal(read_document, path)


def test_the_home_directory_stays_out(monkeypatch, tmp_path):
    """Every text of a document loses it, keys included; what only begins alike stays."""
    monkeypatch.setenv("HOME", "/home/ada")
    value = {"/home/ada/m": ["/home/ada", "see /home/ada/x.gguf", "/home/adam/x", 3]}
    assert {"~/m": ["~", "see ~/x.gguf", "/home/adam/x", 3]} == without_home(value)


def test_the_command_can_be_typed_again(monkeypatch):
    """Words are quoted for a shell, but never the ~ that it has to read."""
    monkeypatch.setenv("HOME", "/home/ada")
    words = ["superweight", "check", "/home/ada/my model", "a=/home/ada/b", "it's"]
    assert """superweight check ~/'my model' a=~/b 'it'"'"'s'""" == command_line(words)


def test_the_labels_of_seven_super_weights_do_not_overlap(document):
    """A chain of them through seven blocks side by side: seven labels, each readable."""
    places = [f"{layer}, 163, {100 * layer}" for layer in range(3, 10)]
    blocks = 18
    observed = document["observed"]
    seven = [observed["super_weights"][0] | {"at": f"[{at}]", "layer": int(at[0])} for at in places]
    observed |= {"blocks": blocks, "super_weights": seven, "cancellers": []}
    series = {"input": [1.0 + n for n in range(blocks)], "output": [2.0 + n for n in range(blocks)]}
    observed["magnitudes"] = {"intact": series, "pruned": series}
    (chart,) = (chart for chart in charts(document) if chart.key == "magnitudes")
    figure = plotted(chart)
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert 7 == len(boxes)
        assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[:n])


def test_the_page_begins_with_what_was_found(document):
    """Where, how large, what made of and how much it carries, under the name of its file."""
    words = "super activation 977 on channel 62: made of 3 scalars; carries little (x1.4)"
    document["observed"]["summary"] = words
    named = document | {"model": "/srv/models/qwen.gguf"}
    html = rendered(named)["report.html"].decode()
    head = html[: html.index("<nav")]
    assert words in head
    assert "<h1>Super weights of qwen.gguf</h1>" in head
