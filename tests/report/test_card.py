"""The block of a model card: from report.json alone, put between the marks of a README."""

import json

import pytest
from click.testing import CliRunner

from superweight.cli.main import main
from superweight.core.errors import BadInput
from superweight.report.card import BEGIN, END, card, metadata, updated_card, whole_card

SCALAR = {"at": "[1, 41, 23]", "layer": 1, "value": 4.0, "rank": 1}
OBSERVED = {
    "prompt": "p",
    "blocks": 4,
    "super_weights": [SCALAR],
    "cancellers": [],
    "magnitudes": {"intact": {"input": [1.0] * 4, "output": [1.0] * 4}},
    "effect": {
        "windows": 8,
        "corpus": "builtin",
        "perplexity": 6.5,
        "verdict": "carries the model",
        "conditions": [
            {
                "condition": "pruned",
                "pruned": 1,
                "control": False,
                "perplexity_ratio": 85223.7,
                "interval": [65145.0, 111490.0],
            }
        ],
    },
}
SWEEP = [
    {"scheme": "INT4", "block": 64, "held_out": False, "perplexity_ratio": 1.04, "interval": [1.01, 1.06]},
    {"scheme": "INT4", "block": 1048576, "held_out": False, "perplexity_ratio": 9.5, "interval": [8.0, 11.0]},
]
REPORT = {
    "model": "org/model",
    "provenance": {"harness": "0.1.0", "dtype": "float32", "weights_sha256": "ab" * 32},
    "verdicts": [],
    "observed": OBSERVED,
    "sweep": SWEEP,
    "run": {"command": "superweight check org/model"},
}


def test_the_block_tells_where_what_and_how():
    """Coordinates, what they carry, which roundings keep the model, and the command."""
    block = card(REPORT)
    assert "1 scalar of `mlp.down_proj`" in block
    assert "`[1, 41, 23]` = 4" in block
    assert "Without them perplexity is x85,224 (x65,145 to x111,490, 8 windows of text)." in block
    assert "| INT4, blocks of 64 | x1.04 | keeps the model |" in block
    assert "| INT4, blocks of 1,048,576 | x9.5 | loses the model |" in block
    assert block.endswith("    pip install superweight-harness\n    superweight check org/model\n")


def test_a_model_without_super_weights_says_so():
    """The sentence stands in place of coordinates."""
    assert "No super weights" in card({**REPORT, "observed": {**OBSERVED, "super_weights": []}})


def test_metadata_names_a_base_of_the_hub_alone():
    """A folder of somebody's machine is no base_model."""
    compared = {"comparison": {"base": "org/base"}}
    assert {"tags": ["super-weights"], "base_model": "org/base"} == metadata(compared)
    assert {"tags": ["super-weights"]} == metadata({"comparison": {"base": "./base"}})
    assert whole_card(REPORT).startswith("---\ntags:\n- super-weights\n---\n")


def test_a_readme_keeps_all_but_what_lies_between_the_marks(tmp_path):
    """And its metadata gain the tag; a second update changes nothing."""
    readme = tmp_path / "README.md"
    readme.write_text(f"---\nlicense: mit\n---\n# Mine\n\n{BEGIN}\nold\n{END}\n\nThe end.\n")
    once = updated_card(readme, REPORT)
    assert "old" not in once
    assert once.startswith("---\nlicense: mit\ntags:\n- super-weights\n---\n# Mine\n")
    assert once.endswith(f"{END}\n\nThe end.\n")
    readme.write_text(once)
    assert once == updated_card(readme, REPORT)


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(REPORT))
    return path


def test_the_command_reads_the_report_and_rewrites_the_readme(tmp_path, report):
    """From report.json alone; without --update the whole card is printed."""
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}{END}")
    result = CliRunner().invoke(main, ["card", str(report), "--update", str(readme)])
    assert 0 == result.exit_code, result.output
    assert "[1, 41, 23]" in readme.read_text()
    assert whole_card(REPORT) == CliRunner().invoke(main, ["card", str(report)]).stdout


@pytest.mark.parametrize("text", ["no marks", None])
def test_a_readme_without_marks_or_at_all_is_bad_input(text, tmp_path, report):
    """One line; the file stays as it is."""
    readme = tmp_path / "README.md"
    if text is not None:
        readme.write_text(text)
    result = CliRunner().invoke(main, ["card", str(report), "--update", str(readme)])
    assert 4 == result.exit_code
    assert text == (readme.read_text() if readme.exists() else None)


def test_a_report_without_a_measured_model_is_refused():
    """A comparison of files alone measured none."""
    with pytest.raises(BadInput, match="the report holds no measured model"):
        card({"model": "m", "provenance": {}, "verdicts": []})
