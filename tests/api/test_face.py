"""What ``import superweight`` hands on: the names, what they cost, and what they do on a real model."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import superweight as sw
import superweight.api
from superweight.claims.verdict import SUPPORTED, Claim, Verdict, counted
from superweight.release.result import KEPT, Check, Comparison
from tests.release.releases import make, scaled, unchanged

BASELINES = Path(__file__).parents[1] / "claims" / "baselines"
PLACE = sw.Coordinate(1, 41, 23)


def fresh(program):
    """Run a program in an interpreter that has imported nothing yet."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


class Cells(HTMLParser):
    """Reads the texts of a table as a browser would, and which elements it is made of."""

    def __init__(self, markup):
        super().__init__()
        self.texts, self.elements = [], set()
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        assert not attrs

    def handle_data(self, data):
        self.texts.append(data)


TABLE = {"table", "caption", "thead", "tbody", "tr", "th", "td"}


def test_importing_it_imports_neither_torch_nor_numpy():
    """Nothing heavy is imported before a name that needs it is used; then it is."""
    heavy = "sorted({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    program = f"import sys, superweight; print({heavy}); superweight.Verdict; print({heavy})"
    assert ["[]", "['numpy']"] == fresh(program).splitlines()


def test_every_public_name_is_there():
    """``dir`` lists the names of ``__all__``, each can be had, and ``import *`` brings all of them."""
    assert set(sw.__all__) <= set(dir(sw))
    assert all(getattr(sw, name) is not None for name in sw.__all__)
    names = {}
    exec("from superweight import *", names)  # noqa: S102  # a function may not import all names
    assert set(sw.__all__) == set(names) - {"__builtins__"}


def test_another_name_is_refused():
    """A misspelt name is an AttributeError that names it, as in any module."""
    with pytest.raises(AttributeError, match="module 'superweight' has no attribute 'scam'"):
        sw.scam  # noqa: B018


@pytest.mark.parametrize("module", [sw, superweight.api])
def test_the_examples_of_the_docstrings_are_true(module):
    """They run, and print what they say."""
    failed, tried = doctest.testmod(module)
    assert 0 == failed
    assert 0 < tried


def test_perplexity_is_the_one_that_transformers_computes(planted):
    """The mean cross-entropy that the model class returns for the same windows, exponentiated."""
    windows = superweight.api._windows(planted, "builtin")
    with torch.no_grad():
        losses = [
            float(planted.model(input_ids=ids[None], labels=ids[None]).loss)
            for ids in torch.from_numpy(windows.ids)
        ]
    assert pytest.approx(np.exp(np.mean(losses)), rel=1e-5) == sw.perplexity(planted)


def test_measuring_at_once_equals_editing_one_by_one(planted):
    """Each named set gives the perplexity that the model has while it is edited; an empty set, the intact."""
    found = sw.scan(planted)
    measured = sw.measure(planted, {"pruned": found.prune(), "half": found.scale(0.5), "none": ()})
    assert ["intact", "pruned", "half", "none"] == list(measured)
    for name, edits in {"intact": (), "pruned": found.prune(), "half": found.scale(0.5), "none": ()}.items():
        with sw.edit(planted, edits):
            assert pytest.approx(sw.perplexity(planted), rel=1e-4) == measured[name].perplexity


def test_a_patched_activation_changes_perplexity_and_is_undone(planted):
    """Holding the super activation at zero ruins the model inside the block and nowhere else."""
    (activation,) = sw.scan(planted).super_activations[:1]
    patch = sw.PatchActivation(activation.onset, activation.token, activation.channel, 0.0)
    before = sw.perplexity(planted)
    with sw.edit(planted, [patch]):
        assert 10 * before < sw.perplexity(planted)
    assert before == sw.perplexity(planted)


def test_a_batched_measurement_goes_on_under_a_patched_activation(planted):
    """Both the intact model and the pruned one are measured with the activation held at zero."""
    found = sw.scan(planted)
    (activation,) = found.super_activations[:1]
    patch = sw.PatchActivation(activation.onset, activation.token, activation.channel, 0.0)
    with sw.edit(planted, [patch]):
        measured = sw.measure(planted, {"pruned": found.prune()})
        assert sw.perplexity(planted) == pytest.approx(measured["intact"].perplexity, rel=1e-4)
    with sw.edit(planted, [patch, *found.prune()]):
        assert sw.perplexity(planted) == pytest.approx(measured["pruned"].perplexity, rel=1e-4)


def test_what_cannot_be_batched_is_refused(planted, refusal):
    """A patched activation and a set named as the intact model are bad input, in one line."""
    patch = {"patched": [sw.PatchActivation(1, 0, 2, 0.0)]}
    assert "'patched' patches an activation" in refusal(sw.measure, planted, patch)
    assert "'intact' names the model without edits" in refusal(sw.measure, planted, {"intact": ()})
    assert "depth 'deep' is none of" in refusal(sw.compare, "a", "b", depths=["deep"])


def test_it_continues_a_prompt_greedily(planted):
    """The text is what transformers generates for the prompt, without the prompt."""
    ids = torch.tensor([planted.encode("The tide")])
    written = planted.model.generate(ids, do_sample=False, max_new_tokens=8, min_new_tokens=8, pad_token_id=0)
    expected = planted.tokenizer.decode(written[0, ids.shape[1] :])
    assert expected == sw.generate(planted, "The tide", tokens=8)


def test_a_loaded_model_is_checked_and_reported(planted, drawn_once, tmp_path):
    """Every claim has a verdict, nothing is loaded again, and report.json holds the same verdicts."""
    checked = sw.check(planted, baselines=BASELINES)
    assert checked.evidence.subject is planted
    assert checked.as_expected
    assert 14 == len(checked.verdicts)
    lines = repr(checked).splitlines()
    assert "verdicts on tiny-planted" == lines[0]
    assert lines[3].startswith("  C3 supported: perplexity after over before is ")
    assert TABLE == Cells(checked._repr_html_()).elements
    checked.report(tmp_path / "out")
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [verdict.status for verdict in checked.verdicts] == [row["status"] for row in document["verdicts"]]
    assert "superweight check tiny-planted" == document["run"]["command"]
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_check_that_is_not_as_expected_says_so(plain):
    """The paper's claims do not hold of a model without super weights, which its table marks."""
    checked = sw.check(plain, expect="paper", baselines=BASELINES)
    assert not checked.as_expected
    assert any(line.startswith("! C") for line in repr(checked).splitlines()[1:])
    assert "no" in Cells(checked._repr_html_()).texts


def test_loaded_models_are_compared_as_named_ones(planted, tmp_path):
    """A copy is kept and a halved super weight is damage, whether models are loaded or named."""
    folder = planted.entry.root / planted.entry.source
    kept = make(folder, tmp_path / "kept", unchanged, [PLACE])
    halved = make(folder, tmp_path / "halved", scaled(0.5), [PLACE])
    options = {"depths": ["static", "activations"], "baselines": BASELINES}
    loaded = sw.compare(planted, sw.load(str(kept), device="cpu"), **options)
    assert KEPT == loaded.verdict
    assert sw.compare("tiny-planted", str(kept), **options).checks == loaded.checks
    assert "damaged" == sw.compare(planted, str(halved), **options).verdict


def test_a_model_is_not_compared_with_itself(planted, refusal):
    """Neither loaded nor by its name."""
    assert "are the same files" in refusal(sw.compare, planted, "tiny-planted")
    assert "are the same files" in refusal(sw.check, planted, base=planted)


def test_tables_escape_what_they_show():
    """Names with markup stand in a notebook as text; the table holds no other element."""
    hostile = "<script>alert('x')</script> & co"
    claim = Claim("C1", hostile, "section 3")
    verdict = Verdict(claim, SUPPORTED, hostile, (counted(hostile, 1, 1, "at least"),))
    comparison = Comparison("base", hostile, (Check("static", hostile, KEPT, hostile),))
    for shown in (verdict, comparison):
        table = Cells(shown._repr_html_())
        assert TABLE == table.elements
        assert hostile in table.texts


def test_results_read_as_short_text(planted):
    """A scan names its super weights, a comparison its verdict, a verdict its reason."""
    assert "1 super weight, suppressed after 1 pass" == repr(sw.scan(planted)).splitlines()[0]
    assert str(PLACE) in Cells(sw.scan(planted)._repr_html_()).texts
    comparison = Comparison("base", "release", (Check("static", "files", KEPT, "all the same"),))
    assert "release against base: kept" == repr(comparison).splitlines()[-1]
    assert "C1 supported: of old" == repr(Verdict(Claim("C1", "", ""), SUPPORTED, "of old"))


@pytest.mark.slow
def test_a_type_checker_sees_the_types():
    """mypy, strict, agrees with every type that the consumer program asserts; `make lint` asks it, too."""
    consumer = Path(__file__).with_name("consumer.py")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", str(consumer)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Success: no issues found in 1 source file" == checked.stdout.strip()
