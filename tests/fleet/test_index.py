"""The index: what changed first, against the last run that ended; the same in every format."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from xml.etree import ElementTree

import jsonschema
import pytest

from superweight.fleet import index as fleet_index
from superweight.fleet.index import INDEX, PREVIOUS, RUNNING, begin, finish, gather, read_index, schema
from superweight.fleet.index_sets import diff, merged
from superweight.fleet.row import (
    AS_EXPECTED,
    CANNOT_JUDGE,
    CRASHED,
    NOT_AS_EXPECTED,
    STATUSES,
    Carried,
    decoded,
    differences,
    encoded,
    private,
)
from superweight.fleet.storage import Storage
from superweight.fleet.task import keep

from .rows import PLANTED, index, named, parsed

DAMAGED = replace(
    PLANTED,
    status=NOT_AS_EXPECTED,
    reason="1 of 2 claims",
    claims={"C1": "refuted", "C3": "supported"},
    super_weights=(),
)


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path))


def models(storage):
    return {row["model"]: row["changed"] for row in parsed(storage.read(INDEX))["models"]}


def test_what_differs_between_two_rows_is_told_line_by_line():
    """Status, claims, places, what is carried in words; the number alone is no change."""
    assert () == differences(PLANTED, PLANTED)
    assert (
        "as expected → not as expected",
        "C1: supported → refuted",
        "[1, 41, 23] is no longer found",
    ) == differences(PLANTED, DAMAGED)
    again = replace(PLANTED, carried=Carried(80000.0, 1.0, 2.0, "carries the model (x80,000)"))
    assert () == differences(PLANTED, again)
    little = replace(PLANTED, carried=Carried(1.2, 1.0, 2.0, "carries little (x1.2)"))
    assert ("carries the model → carries little",) == differences(PLANTED, little)


def test_what_could_not_be_judged_says_nothing_of_super_weights():
    """Only the status differs, not every claim."""
    lost = replace(PLANTED, status=CRASHED, claims={}, super_weights=(), key=None)
    assert ("as expected → crashed",) == differences(PLANTED, lost)


def test_a_row_is_the_same_after_the_way_through_json_and_names_no_home(monkeypatch):
    """Whose machine it was is not published."""
    assert PLANTED == decoded(encoded(PLANTED))
    monkeypatch.setenv("HOME", "/home/somebody")
    assert "~/m" == private(replace(PLANTED, model="/home/somebody/m")).model


def test_the_index_keeps_to_its_schema_and_the_schema_can_fail(storage):
    """Rows of every status; a field too many is noticed."""
    finish(storage, lambda: [named(f"org/{place}", status=status) for place, status in enumerate(STATUSES)])
    document = parsed(storage.read(INDEX))
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(document, schema())
    assert list(STATUSES) == [row["status"] for row in document["models"]]
    document["models"][0]["more"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema())


def test_changes_are_told_against_the_last_run_and_come_first(storage):
    """A second night with the same rows has none again."""
    others = [named("org/a"), named("org/z", status=NOT_AS_EXPECTED)]
    assert 0 == finish(storage, lambda: [PLANTED, *others])
    assert 1 == finish(storage, lambda: [DAMAGED, *others])
    first, *_ = parsed(storage.read(INDEX))["models"]
    assert "org/planted" == first["model"]
    assert "C1: supported → refuted" in first["changed"]
    assert 0 == finish(storage, lambda: [DAMAGED, *others])


def test_writing_the_index_anew_keeps_the_changes(storage):
    """It is not held to itself."""
    for row in (PLANTED, DAMAGED):
        begin(storage)
        keep(storage, row, {})
        finish(storage, lambda row=row: [row])
    before = models(storage)
    assert before["org/planted"]
    assert 1 == gather(storage)
    assert before == models(storage)
    assert parsed(storage.read(INDEX))["complete"]


def test_a_run_that_did_not_end_is_no_run_to_be_held_to(storage):
    """What is looked at half-way says so, and the end of the run tells its changes all the same."""
    finish(storage, lambda: [PLANTED])
    begin(storage)
    keep(storage, DAMAGED, {})
    gather(storage)
    half = parsed(storage.read(INDEX))
    assert not half["complete"]
    assert half["models"][0]["changed"]
    assert "did not end" in storage.read("index.html").decode()
    assert 1 == finish(storage, lambda: [DAMAGED])
    assert models(storage)["org/planted"]
    assert storage.read(RUNNING) is None
    assert AS_EXPECTED == parsed(storage.read(PREVIOUS))["models"][0]["status"]


def test_parquet_junit_and_markdown_say_the_same(storage):
    """Read by their own readers."""
    arrow = pytest.importorskip("pyarrow.parquet")
    rows = [
        PLANTED,
        named("org/bad", status=NOT_AS_EXPECTED, reason="a|b\x00", unexpected=("C1: it moved",)),
        named("org/crash", status=CRASHED, reason="SIGSEGV"),
        named("org/gone", status=CANNOT_JUDGE, reason="absent", activation=None, carried=None),
    ]
    finish(storage, lambda: rows)
    table = arrow.read_table(io.BytesIO(storage.read("index.parquet"))).to_pylist()
    assert {row.model for row in rows} == {row["model"] for row in table}
    (planted,) = (row for row in table if row["model"] == "org/planted")
    assert [{"at": "[1, 41, 23]", "value": 4.0}] == planted["super_weights"]
    assert (41, 85223.0, [("C1", "supported"), ("C3", "supported")]) == (
        planted["channel"],
        planted["ratio"],
        planted["claims"],
    )
    suite = ElementTree.fromstring(storage.read("junit.xml"))  # noqa: S314  # written a moment ago
    assert ["4", "1", "1", "1"] == [suite.get(name) for name in ("tests", "failures", "errors", "skipped")]
    assert "C1: it moved" == suite.find("testcase[@name='org/bad']/failure").text
    text = storage.read("summary.md").decode()
    assert "1 not as expected, 1 crashed, 1 cannot be judged, 1 as expected." in text
    assert r"a\|b" in text


def test_an_index_of_something_else_is_refused_in_one_line(refusal):
    """No JSON, another document, a newer schema, a row that lacks a field or has a status nobody knows."""
    broken = parsed(index(PLANTED))
    del broken["models"][0]["status"]
    odd = index(replace(PLANTED, status="fine"))
    for data in (b"{", b"[]", odd, json.dumps(broken).encode()):
        assert "x.json is no index.json" in refusal(read_index, data, "x.json")
    newer = json.dumps(parsed(index(PLANTED)) | {"schema": 2}).encode()
    assert "update this one" in refusal(read_index, newer, "x.json")
    assert 1 == len(read_index(index(PLANTED), "x.json").models)


def test_a_folder_without_rows_is_refused(storage, refusal):
    """There is nothing to report on."""
    assert "holds no rows of a fleet" in refusal(gather, storage)


def test_merging_takes_the_last_judgement_of_each_model():
    """What crashed later does not replace what was judged; pages of other folders are left out."""
    later = replace(PLANTED, finished="2026-11-28T01:00:00+00:00", reason="later")
    crashed = replace(PLANTED, finished="2026-11-29T01:00:00+00:00", status=CRASHED)
    documents = [read_index(index(*rows), "x") for rows in ([PLANTED, named("org/b")], [later], [crashed])]
    rows = [decoded(data) for data in merged(documents)]
    assert [("org/b", None), ("org/planted", None)] == [(row.model, row.report) for row in rows]
    assert "later" == rows[1].reason


def test_a_difference_names_what_changed_what_is_new_and_what_is_gone():
    """As Markdown, for an issue; of the same index twice there is none."""
    old, new = (
        read_index(index(PLANTED, named("org/old")), "x"),
        read_index(index(DAMAGED, named("org/new")), "x"),
    )
    text = diff(old, new).as_markdown()
    assert "1 models changed, 1 are new, 1 are gone." in text
    assert "| `org/planted` | not as expected | as expected → not as expected; C1" in text
    assert "Nothing changed.\n" == diff(old, old).as_markdown()


def test_the_command_merges_and_tells(superweight, tmp_path):
    """The same from the command line; a file that is no index exits 4."""
    for name, rows in {"old": [PLANTED], "new": [DAMAGED], "more": [named("org/b")]}.items():
        (tmp_path / f"{name}.json").write_bytes(index(*rows))
    old, new, more, out = (str(tmp_path / f"{name}.json") for name in ("old", "new", "more", "out"))
    assert 0 == superweight("index", "merge", old, more, "--out", out).exit_code
    assert 2 == len(parsed((tmp_path / "out.json").read_bytes())["models"])
    shown = superweight("index", "diff", old, new)
    assert (0, True) == (shown.exit_code, "1 models changed" in shown.stdout)
    (tmp_path / "old.json").write_text("{}")
    refused = superweight("index", "diff", old, new)
    assert (4, True) == (refused.exit_code, "is no index.json" in refused.stderr)


def test_storage_elsewhere_holds_the_same(storage):
    """fsspec's own memory stands for an object store: the index is written and read there."""
    elsewhere = Storage("memory://night")
    for place in (storage, elsewhere):
        keep(place, PLANTED, {"report.json": b"{}"})
        gather(place)
    assert [PLANTED.model] == [row["model"] for row in parsed(elsewhere.read(INDEX))["models"]]
    assert elsewhere.read("nothing.json") is None
    elsewhere.remove("nothing.json")
    names = [name.partition("models/")[2] for name, _ in elsewhere.found("models/*/row.json")]
    assert [f"{PLANTED.id}/row.json"] == names


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, refusal):
    """A file in its way, a protocol that nobody knows."""
    (tmp_path / "models").write_text("in the way")
    assert "cannot write" in refusal(keep, Storage(str(tmp_path)), PLANTED, {})
    assert "cannot use --out nowhere://x" in refusal(Storage, "nowhere://x")


def test_more_rows_than_a_page_shows_are_said_to_be_in_the_index(storage, monkeypatch):
    """The page says how many it shows."""
    from superweight.fleet import index_page

    monkeypatch.setattr(index_page, "SHOWN", 2)
    finish(storage, lambda: [named(f"org/{place}") for place in range(3)])
    text = storage.read("index.html").decode()
    assert "shows the first 2 of them" in text
    assert 2 == text.count("<tr data-status")
    assert fleet_index.SCHEMA == parsed(storage.read(INDEX))["schema"]
