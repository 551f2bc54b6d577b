"""Reports as commands write them: from a check, a comparison, a pytest run; and what interrupts them."""

from __future__ import annotations

import json
import sys

import jsonschema
import pytest

from superweight.claims.check import run_check
from superweight.cli import progress
from superweight.report.document import schema

pytestmark = pytest.mark.usefixtures("drawn_once")


def written(folder):
    document = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, schema())
    return document


def test_a_check_writes_all_it_has_seen(superweight, tmp_path):
    """Beside the base it is held to: both with their observations; and how the run is reproduced."""
    out = tmp_path / "out"
    superweight("check", "tiny-tuned", "--base", "tiny-planted", "--report", str(out))
    document = written(out)
    assert ("tiny-tuned", "tiny-planted") == (document["model"], document["base"]["model"])
    for subject in (document, document["base"]):
        observed = subject["observed"]
        assert {"activation", "next_token", "scaling", "writings"} <= observed.keys()
        assert {"input", "output"} == observed["magnitudes"]["pruned"].keys()
        assert 4 == len(observed["writings"])
        assert 4 == len(subject["sweep"])
    command = f"superweight check tiny-tuned --base tiny-planted --report {out}"
    assert command == document["run"]["command"]
    assert ["loading", "gathering"] == [
        document["run"]["stages"][place]["stage"].split()[0] for place in (0, -1)
    ]


def test_the_figures_hold_the_numbers_of_the_claims(superweight, tmp_path):
    """Figures 6 and 7 draw what C10 and C13 were judged by, not another measurement."""
    superweight("check", "tiny-planted", "--report", str(tmp_path))
    document = written(tmp_path)
    evidence = {row["claim"]: row["evidence"] for row in document["verdicts"]}
    for point in document["observed"]["scaling"]:
        judged = evidence["C10"]["perplexity_ratios"][f"{point['factor']:g}"]["value"]
        assert judged == pytest.approx(point["perplexity_ratio"], rel=1e-5)
        low, high = point["interval"]
        assert low <= point["perplexity_ratio"] <= high
    intact = evidence["C13"]["intact_perplexity"]["value"]
    for row in document["sweep"]:
        judged = evidence["C13"]["blocks"][f"{row['block']:,}"]["held_out" if row["held_out"] else "plain"]
        assert judged["value"] == pytest.approx(row["perplexity_ratio"] * intact, rel=1e-4)


def test_check_prints_json_alone(superweight, tmp_path):
    """--json - is report.json on stdout, and the steps are on stderr."""
    result = superweight("check", "tiny-planted", "--json", "-")
    document = json.loads(result.stdout)
    jsonschema.validate(document, schema())
    assert "tiny-planted" == document["model"]
    assert "  C1: " in result.stderr


def test_restoring_the_activation_restores_what_is_written(superweight, tmp_path):
    """The planted model needs only its super activation: put back, it writes as it did intact."""
    superweight("check", "tiny-planted", "--report", str(tmp_path))
    for item in written(tmp_path)["observed"]["writings"]:
        assert item["intact"] == item["restored"]
        assert item["intact"] != item["pruned"]


def test_a_model_without_super_weights_has_a_report(superweight, tmp_path):
    """What is not there is left out, and the page is made all the same."""
    assert 0 == superweight("check", "tiny-plain", "--report", str(tmp_path)).exit_code
    observed = written(tmp_path)["observed"]
    assert ["intact"] == list(observed["magnitudes"])
    assert {"activation", "next_token", "scaling"}.isdisjoint(observed)


@pytest.mark.parametrize(("depth", "models"), [("static", 0), ("all", 2)])
def test_a_comparison_writes_its_verdict(superweight, tmp_path, depth, models):
    """The contract of --json, and every model that was loaded for it."""
    asked = ("compare", "tiny-planted", "tiny-tuned", "--depth", depth)
    result = superweight(*asked, "--json", "-", "--report", str(tmp_path))
    document = written(tmp_path)
    assert json.loads(result.stdout) == document["comparison"]
    assert models == len(document["models"])
    assert "tiny-tuned against tiny-planted" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_report_refuses_what_is_no_report(superweight, tmp_path):
    """One line, exit code 4, nothing written."""
    (tmp_path / "report.json").write_text("{}")
    result = superweight("report", str(tmp_path / "report.json"), "--output", str(tmp_path / "out"))
    assert 4 == result.exit_code
    assert 1 == len(result.stderr.splitlines())
    assert not (tmp_path / "out").exists()


def test_ctrl_c_says_so_and_exits_130(superweight, monkeypatch, tmp_path):
    """One line, the exit code that shells expect, and no report begun."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("superweight.claims.check.run_check", interrupted)
    assert run_check is not interrupted
    result = superweight("check", "tiny-planted", "--report", str(tmp_path / "out"))
    assert 130 == result.exit_code
    assert "superweight: interrupted; no file was left half-written" == result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["scan", "read", "check", "compare", "report", "models", None])
def test_every_help_has_an_example(superweight, command):
    """One line to copy."""
    words = [command] if command else []
    assert f"Example: superweight {command or ''}" in superweight(*words, "--help").stdout


def test_json_stands_alone_on_stdout(superweight):
    """Whatever is said besides goes to stderr."""
    result = superweight("scan", "tiny-planted", "--json", "-")
    assert "tiny-planted" == json.loads(result.stdout)["model"]
    assert "scanning" in result.stderr


class Terminal:
    """A stderr that is a terminal and remembers."""

    def __init__(self, stream):
        self.text, self.stream, self.encoding = "", stream, "utf-8"

    def isatty(self):
        return True

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass


def test_a_terminal_gets_a_bar_and_no_color_gets_lines(monkeypatch):
    """The bar moves in place; NO_COLOR and a pipe get one plain line a step."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal(sys.stderr)
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.progressing(progress.SCAN) as begin:
        begin("loading [a]")
        begin("scanning")
    assert "\x1b[" in terminal.text
    terminal.text = ""
    monkeypatch.setenv("NO_COLOR", "1")
    with progress.progressing(progress.SCAN) as begin:
        begin("loading [a]")
    assert "  loading [a]\n" == terminal.text
