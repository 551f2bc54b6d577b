"""A check written down: the contract of report.json, and a page that nobody can inject into."""

import json
import os
from html.parser import HTMLParser

import pytest

from superweight.claims.expectations import Outcome
from superweight.claims.verdict import AT_LEAST, AT_MOST, Claim, Criterion, Measured, judged, not_applicable
from superweight.core.errors import BadInput
from superweight.core.statistics import Interval
from superweight.report.document import of_model, verdict_row
from superweight.report.html import page
from superweight.report.output import write_report

CLAIM = Claim("C3", "Pruning it destroys the model", "Table 1")
HOSTILE = "<script>alert('1')</script>&\"Füße\""


def outcome(gaps=()):
    criterion = Criterion("ratio", Measured(12.5, 0.25), Interval(11.0, 14.0), 1.5, AT_LEAST)
    harmless = Criterion("control", Measured(1.0, 0.02), Interval(0.9, 1.1), 1.5, AT_MOST)
    return Outcome(judged(CLAIM, criterion, harmless, words=["a"]), "supported", "registry", tuple(gaps))


def written(directory):
    return json.loads((directory / "report.json").read_text(encoding="utf-8"))


class Elements(HTMLParser):
    """The tags of a page, its attributes' names and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.links, self.text = [], set(), [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value for name, value in attrs if name == "href"]

    def handle_data(self, data):
        self.text += data


def test_a_row_holds_the_keys_of_the_contract():
    """Other tools find the claim, both statuses, the gaps and the number that decided."""
    row = verdict_row(outcome(["gap"]))
    assert {
        "claim": "C3",
        "sentence": "Pruning it destroys the model",
        "place": "Table 1",
        "status": "supported",
        "engine": "transformers",
        "expected": "supported",
        "expected_by": "registry",
        "as_expected": False,
        "gaps": ["gap"],
        "statistic": 12.5,
        "interval": [11.0, 14.0],
        "threshold": 1.5,
        "direction": "at least",
        "evidence": {"words": ["a"]},
    } == {key: value for key, value in row.items() if key not in ("reason", "criteria")}
    assert row["reason"].startswith("ratio is 12.5")
    assert ["ratio", "control"] == [criterion["name"] for criterion in row["criteria"]]


def test_a_claim_that_does_not_apply_has_the_same_keys():
    """Without a deciding number its keys are there, and null."""
    row = verdict_row(Outcome(not_applicable(CLAIM, "nothing to prune"), None, None))
    assert verdict_row(outcome()).keys() == row.keys()
    assert [None] * 4 == [row[key] for key in ("statistic", "interval", "threshold", "direction")]
    assert ([], True) == (row["criteria"], row["as_expected"])


def test_the_file_holds_model_provenance_and_verdicts(tmp_path):
    """report.json is one object of exactly three keys, and what was given comes back."""
    row = verdict_row(outcome())
    write_report(tmp_path / "new" / "folder", of_model("m", {"torch": "2.6"}, [row]))
    document = written(tmp_path / "new" / "folder")
    assert {"model": "m", "provenance": {"torch": "2.6"}, "verdicts": [row]} == document


def test_no_scratch_file_stays_behind(tmp_path):
    """The two files and the folder of figures, and nothing else."""
    write_report(tmp_path, of_model("m", {}, []))
    assert ["figures", "report.html", "report.json"] == sorted(path.name for path in tmp_path.iterdir())


def test_an_older_report_is_replaced(tmp_path):
    """Writing again leaves the new report."""
    write_report(tmp_path, of_model("older", {}, []))
    write_report(tmp_path, of_model("newer", {}, []))
    assert "newer" == written(tmp_path)["model"]
    assert "newer" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_hostile_name_stays_text(tmp_path):
    """No markup comes into the page from a model's name, and the name is shown as it is."""
    write_report(tmp_path, of_model(HOSTILE, {}, [verdict_row(outcome())]))
    elements = Elements((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "script" not in elements.tags
    assert f"Super weights of {HOSTILE}" in elements.text
    assert HOSTILE == written(tmp_path)["model"]


@pytest.mark.parametrize(
    "field", ["claim", "sentence", "place", "status", "expected", "expected_by", "reason"]
)
def test_hostile_words_of_a_verdict_stay_text(field):
    """Every text of a row is escaped."""
    row = verdict_row(outcome()) | {field: HOSTILE}
    elements = Elements(page({"model": "m", "provenance": {}, "verdicts": [row]}, {}))
    assert "script" not in elements.tags
    assert HOSTILE in elements.text


def test_hostile_gaps_and_provenance_stay_text():
    """So is every gap, and every name and value of the provenance."""
    row = verdict_row(outcome([HOSTILE]))
    elements = Elements(page({"model": "m", "provenance": {HOSTILE: HOSTILE}, "verdicts": [row]}, {}))
    assert "script" not in elements.tags
    assert 3 == elements.text.count(HOSTILE)


def test_the_page_needs_nothing_else():
    """The page fetches no file: no link, no image, no script, no source."""
    elements = Elements(page({"model": "m", "provenance": {}, "verdicts": [verdict_row(outcome())]}, {}))
    assert {"link", "img", "script", "iframe"}.isdisjoint(elements.tags)
    assert {"src", "srcset", "action", "onload"}.isdisjoint(elements.attributes)
    assert all(place.startswith("#") for place in elements.links)


def test_the_page_counts_what_is_not_as_expected():
    """The first sentence says how many claims differ and which, or that none does."""
    good, bad = verdict_row(outcome()), verdict_row(outcome(["a gap to read"]))
    mixed = page({"model": "m", "provenance": {}, "verdicts": [good, bad]}, {})
    assert "1 of 2 claims are not as expected: C3." in mixed
    assert 1 == mixed.count('<tr class="unexpected">')
    assert "a gap to read" in mixed
    agreed = page({"model": "m", "provenance": {}, "verdicts": [good, good]}, {})
    assert "All 2 claims are as expected." in agreed
    assert '<tr class="unexpected">' not in agreed


def test_a_directory_that_cannot_be_made_is_bad_input(tmp_path):
    """A file where the directory should be is one line with the path and the reason."""
    (tmp_path / "out").write_text("in the way")
    for directory in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(BadInput, match="cannot write the report to") as caught:
            write_report(directory, of_model("m", {}, []))
        assert str(directory) in str(caught.value)
        assert 1 == len(str(caught.value).splitlines())


def test_a_write_that_breaks_off_leaves_the_older_report(tmp_path, monkeypatch):
    """Each file is renamed into place: the old one stays whole when the new one cannot be finished."""
    write_report(tmp_path, of_model("older", {}, []))

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BadInput, match="No space left on device"):
        write_report(tmp_path, of_model("newer", {}, []))
    assert "older" == written(tmp_path)["model"]
    assert [] == list(tmp_path.rglob("*.tmp"))


def test_nan_cannot_be_written(tmp_path):
    """A report that is no JSON is refused before any file is touched."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(tmp_path, of_model("m", {"x": float("nan")}, []))
    assert [] == list(tmp_path.iterdir())
