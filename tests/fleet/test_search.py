"""A search of the hub: what it asks for, and which of the answers are of the fleet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from superweight.core.errors import BadInput, Unavailable
from superweight.fleet.fleet_file import SearchTable, read_fleet
from superweight.fleet.needs import Size
from superweight.fleet.plan import planned
from superweight.fleet.search import found

from .hub_server import hub


def listed(name, days, parameters):
    """A model as the hub's list has it: changed so many days ago, in 16 bits."""
    changed = datetime.now(UTC) - timedelta(days=days)
    held = {"safetensors": {"parameters": {"BF16": parameters}, "total": parameters}} if parameters else {}
    return {"id": name, "lastModified": changed.strftime("%Y-%m-%dT%H:%M:%S.000Z"), **held}


MODELS = [
    listed("org/new", 1, 10**9),
    listed("org/large", 2, 10**11),
    listed("org/unknown", 3, 0),
    listed("org/small", 4, 10**8),
    listed("org/old", 9, 10**8),
]


@pytest.fixture
def asked(monkeypatch):
    """What a hub of this machine was asked."""
    with hub(MODELS) as (address, asked):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        yield asked


def test_newer_and_smaller_models_are_found_with_their_sizes(asked):
    """What is older ends the search; what is larger, or of unknown size, is left out."""
    table = SearchTable(org="org", newer_than="7d", max_size="20GB")
    assert [
        ("org/new", Size(10**9, 2 * 10**9)),
        ("org/small", Size(10**8, 2 * 10**8)),
    ] == list(found(table))
    (query,) = (query for path, query in asked if path == "/api/models")
    assert ["org"] == query["author"]
    assert {"text-generation", "safetensors"} <= set(query["filter"])
    assert ["lastModified"] == query["sort"]


def test_without_a_size_all_are_found_and_most_ends_it(asked):
    """A model of unknown size is one too."""
    assert 5 == len(list(found(SearchTable(org="org"))))
    assert ["org/new", "org/large"] == [name for name, _ in found(SearchTable(search="words", most=2))]


def test_a_search_of_a_fleet_takes_its_options_and_no_model_twice(asked, tmp_path):
    """What a file names comes first, with its own options."""
    path = tmp_path / "fleet.toml"
    path.write_text('[[models]]\nmodel = "./x"\n[[search]]\norg = "org"\nmode = "scan"\nmax_size = "1GB"\n')
    items = list(planned(read_fleet(path)))
    assert [("./x", "check"), ("org/small", "scan"), ("org/old", "scan")] == [
        (item.job.model, item.job.mode) for item in items
    ]
    assert 1_940_000_000 == items[1].needs.memory


def test_a_search_without_bounds_or_a_hub_is_refused(monkeypatch):
    """The whole hub is no fleet; a hub that does not answer is said to."""
    with pytest.raises(BadInput, match="the whole hub is no fleet"):
        list(found(SearchTable()))
    with hub(None) as (address, _):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        with pytest.raises(Unavailable, match="the hub could not be searched"):
            list(found(SearchTable(org="org")))
