"""``superweight sweep``: what it measures, what it writes, and that the page says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from superweight.checkpoints.registry import resolve
from superweight.claims.baselines import differences
from superweight.cli.main import main
from superweight.detection.scan import scan
from superweight.measurement.corpus import WINDOWS, cut, default_prompt, documents
from superweight.model.loading import load
from superweight.quantization.granularity import PerTensor
from superweight.quantization.integer_grid import INT4
from superweight.quantization.losses import CALIBRATION, nll, split
from superweight.quantization.sweep import (
    HELD_OUT,
    NAIVE,
    SIZES,
    Sweep,
    activation_sweep,
    sweep,
    weight_sweep,
)
from superweight.quantization.weights import WeightRounding, fake_quantised
from superweight.report.document import read_document
from superweight.report.sweep_page import BEGIN, END, as_document, figure, table, write_page

# Its sweep is measured once, by one worker.
pytestmark = pytest.mark.xdist_group("sweep")

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "quantization.md"
REAL = "smollm2-135m-instruct-q4_1"
BASELINE = REPOSITORY / "tests" / "claims" / "baselines" / REAL / "cpu-float32" / "sweep.json"


@pytest.fixture(scope="module")
def text(planted):
    return split(cut(planted, documents("builtin"), "builtin", count=16), 8)


@pytest.fixture(scope="module")
def measured(planted, text):
    return sweep(planted, scan(planted, default_prompt()), text)


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    return path


def test_a_sweep_has_every_scheme_on_the_same_windows(measured):
    """Six block sizes, plain, held out and clipped, and four W8A8 variants: one loss a window each."""
    assert SIZES == tuple(block.size for block in measured.blocks)
    losses = [loss for block in measured.blocks for loss in (block.plain, block.held_out, block.clipped)]
    losses += [measured.intact, *measured.activations.values()]
    assert {(8,)} == {loss.shape for loss in losses}
    assert np.isfinite(losses).all()


def test_a_block_that_holds_the_whole_matrix_is_the_tensor(planted, measured, text):
    """No matrix of the tiny model is larger than the largest block: it is rounding per tensor."""
    with fake_quantised(planted, WeightRounding(INT4, PerTensor())):
        assert np.array_equal(nll(planted, text.measured), measured.blocks[-1].plain)


def test_the_tables_say_what_was_measured(planted, measured):
    """A row a block size and a row a variant, with the share of the gap between naive and full."""
    document = as_document(planted, measured)
    lines = table(document).splitlines()
    assert len(SIZES) == sum(
        line.startswith(("| 64 ", "| 1,0", "| 16,", "| 65,", "| 262,")) for line in lines
    )
    naive, held = (measured.activations[name].mean() for name in (NAIVE, HELD_OUT))
    share = (naive - held) / (naive - measured.intact.mean())
    assert share == pytest.approx(
        document["activations"][HELD_OUT]["share_closed"]["mean"]["value"], abs=1e-5
    )
    assert any(line.startswith(f"| {HELD_OUT} | {np.exp(held):.2f} | {share:.3f} [") for line in lines)


def test_a_page_is_rewritten_between_its_marks(planted, measured, page):
    """Everything else on it stays; the figure lies beside it, the same bytes every time, below 100 kB."""
    document = as_document(planted, measured)
    write_page(page, document)
    assert f"before\n{BEGIN}\n{table(document)}{END}\nafter\n" == page.read_text(encoding="utf-8")
    picture = page.with_suffix(".svg").read_text(encoding="utf-8")
    assert figure(document) == picture
    assert len(picture) < 100_000
    assert ["page.md", "page.svg"] == sorted(path.name for path in page.parent.iterdir())


@pytest.mark.parametrize("content", ["no marks", f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"])
def test_a_page_without_marks_is_refused(planted, measured, page, content, refusal):
    """Nothing is written where it is not clear what the tables replace."""
    page.write_text(content, encoding="utf-8")
    assert "go between them" in refusal(write_page, page, as_document(planted, measured))
    assert ["page.md"] == [path.name for path in page.parent.iterdir()]
    assert content == page.read_text(encoding="utf-8")


def test_the_command_writes_the_page_and_the_numbers(page, tmp_path):
    """One command makes the tables, the figure and the JSON from which both can be made again."""
    written = tmp_path / "sweep.json"
    result = CliRunner().invoke(
        main,
        [
            *("sweep", "tiny-planted", "--device", "cpu", "--page", str(page)),
            *("--json", str(written), "--report", str(tmp_path / "report")),
        ],
    )
    assert 0 == result.exit_code, result.output
    document = json.loads(written.read_text(encoding="utf-8"))
    assert WINDOWS == document["windows"]
    assert table(document) in page.read_text(encoding="utf-8")
    assert table(document) in result.stdout
    assert figure(document) == page.with_suffix(".svg").read_text(encoding="utf-8")
    report = read_document(tmp_path / "report" / "report.json")
    assert 2 * len(document["weights"]) + len(document["activations"]) == len(report["sweep"])
    assert (tmp_path / "report" / "figures" / "1-sweep.png").is_file()


def test_the_documented_tables_are_the_baseline():
    """docs/quantization.md and its figure show the committed numbers of the real model."""
    document = json.loads(BASELINE.read_text(encoding="utf-8"))
    assert REAL == document["model"]
    assert f"{BEGIN}\n{table(document)}{END}" in PAGE.read_text(encoding="utf-8")
    picture = PAGE.with_suffix(".svg")
    assert picture.stat().st_size < 100_000
    assert "262,144" in picture.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.checkpoint
def test_the_baseline_holds_on_the_real_model():
    """One block size and the naive W8A8, measured again, are what is committed.

    Half a minute on one thread; C12 and C13, which run every time, guard the same code by baselines.
    """
    stored = json.loads(BASELINE.read_text(encoding="utf-8"))
    subject = load(resolve(REAL), device="cpu")
    text = split(cut(subject, documents("builtin"), "builtin", count=WINDOWS + CALIBRATION), WINDOWS)
    found = scan(subject, default_prompt())
    with fake_quantised(subject, WeightRounding(INT4, PerTensor())):
        plain = nll(subject, text.measured)
    naive = activation_sweep(subject, found, text, [NAIVE])
    again = as_document(subject, Sweep(nll(subject, text.measured), (), naive))
    assert [] == differences(stored["intact"], again["intact"])
    assert [] == differences(stored["activations"][NAIVE], again["activations"][NAIVE])
    row = next(row for row in stored["weights"] if row["size"] == SIZES[-1])
    assert abs(np.exp(plain.mean()) - row["plain"]["value"]) <= row["plain"]["within"]


def test_block_sizes_can_be_chosen(planted, text):
    """The claims measure only some, and need no ablation."""
    (block,) = weight_sweep(planted, scan(planted, default_prompt()), text, (1024**2,), unrestored=False)
    assert 1024**2 == block.size
    assert block.clipped is None or block.clip is None
