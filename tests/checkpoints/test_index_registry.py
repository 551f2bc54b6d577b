"""An index is a registry: its models are known, with who says so, and conflicts stay side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from superweight.checkpoints.index_registry import also_reading, read_registry
from superweight.checkpoints.registry import load_registry, resolve, shipped_registry
from superweight.core.coordinates import Coordinate
from superweight.fleet.row import NOT_AS_EXPECTED, Place
from tests.fleet.rows import PLANTED, index, named

MISTRAL = "mistralai/Mistral-7B-v0.1"


@pytest.fixture
def written(tmp_path):
    def written(*rows):
        path = tmp_path / "index.json"
        path.write_bytes(index(*rows))
        return str(path)

    return written


def test_a_model_of_an_index_is_known_while_it_is_read(written):
    """Coordinates, values, activation, effects and expectations, and who says so; afterwards it is not."""
    source = written(PLANTED)
    with also_reading([source]):
        entry = resolve("org/planted")
        assert {Coordinate(1, 41, 23)} == entry.coordinates
        (scalar,) = entry.super_weights
        assert scalar.agrees_with(4.0, 0.0)
        assert not scalar.agrees_with(4.1, 2.0**-23)
        assert (41, 1) == (entry.super_activation.channel, entry.super_activation.onset)
        assert {"C1": "supported", "C3": "supported"} == entry.expect
        assert 85223.0 == entry.effects[0].low
        assert f"measured ({source}, 2026-11-27)" == entry.cited
        assert "org/planted" in load_registry()
        assert "org/planted" not in shipped_registry()
    assert not resolve("org/planted").super_weights


def test_damage_is_nothing_to_expect(written):
    """A row that is not as expected adds no coordinates."""
    with also_reading([written(replace(PLANTED, status=NOT_AS_EXPECTED))]):
        assert not resolve("org/planted").super_weights


def test_what_conflicts_stays_side_by_side(written):
    """The shipped reading comes first; the index's is one more, and its expectations do not replace any."""
    other = named(MISTRAL, super_weights=(Place("[1, 2070, 7311]", -0.25),), claims={"C3": "refuted"})
    with also_reading([written(other)]):
        entry = resolve(MISTRAL)
        cited = [reading.cited for reading in entry.readings]
        assert "table2" == cited[0]
        assert "index.json" in cited[1]
        assert "supported" == entry.expect["C3"]


def test_what_agrees_adds_what_is_not_there_yet(written):
    """Verdicts on claims that nobody stated before."""
    same = named(MISTRAL, super_weights=(Place("[1, 2070, 7310]", -0.2734375),), claims={"C5": "refuted"})
    with also_reading([written(same)]):
        entry = resolve(MISTRAL)
        assert 1 == len(entry.readings)
        assert ("refuted", "supported") == (entry.expect["C5"], entry.expect["C3"])


def test_another_models_toml_is_read_too(tmp_path):
    """And two sources that say different things of one model are both heard."""
    own = tmp_path / "own.toml"
    own.write_text('[models."org/x"]\ncited = "third-party"\nsuper_weights = [[1, 2, 3]]\n', encoding="utf-8")
    again = tmp_path / "index.json"
    again.write_bytes(index(named("org/x")))
    with also_reading([str(own), str(again)]):
        first, second = resolve("org/x").readings
        assert ("third-party", {Coordinate(1, 41, 23)}) == (first.cited, second.coordinates)


@pytest.mark.parametrize(
    ("name", "own"),
    [("org/new", ""), (MISTRAL, "super_weights = [[1, 2070, 7310]]\n")],
    ids=["of a new model", "of a known one"],
)
def test_what_processors_decide_differently_comes_with_its_range(tmp_path, name, own):
    """Only beside the status that it belongs to: C3 of the known model is expected to be supported."""
    path = tmp_path / "models.toml"
    path.write_text(
        f'[models."{name}"]\n{own}'
        'expect = { C3 = "inconclusive", C4 = "inconclusive" }\nundecided = { C3 = [5, 20], C4 = [0, 1] }\n'
    )
    with also_reading([str(path)]):
        entry = resolve(name)
    known = {"C4": (0.0, 1.0)} if own else {"C3": (5.0, 20.0), "C4": (0.0, 1.0)}
    assert known == entry.undecided
    assert all("inconclusive" == entry.expect[claim] for claim in entry.undecided)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"{}", "is no index.json"), (b"", "is no index.json"), (None, "cannot read the index")],
)
def test_what_is_no_index_is_refused_in_one_line(tmp_path, refusal, content, said):
    """Another document, an empty file, no file."""
    path = tmp_path / "index.json"
    if content is not None:
        path.write_bytes(content)
    assert said in refusal(read_registry, str(path))


def test_a_coordinate_that_is_none_is_refused(written, refusal):
    """The source is named."""
    assert "index.json" in refusal(
        read_registry, written(named("org/x", super_weights=(Place("here", 1.0),)))
    )


def test_the_command_knows_them(superweight, written):
    """models lists them; a scan is held to them, by the name that the index has."""
    source = written(PLANTED)
    listed = superweight("models", "--registry", source, "org/planted")
    assert (0, True) == (listed.exit_code, "[1, 41, 23]" in listed.stdout)
    assert 4 == superweight("models", "--registry", f"{source}.gone").exit_code
    assert "org/planted" not in superweight("models").stdout


def test_pytest_knows_them(run, written):
    """--sw-registry holds a model to an index: to the planted coordinate, and to one where nothing lies."""
    folder = shipped_registry()["tiny-planted"]
    place = folder.root / folder.source
    good = written(named("org/new"))
    options = ("--sw-model", f"org/new={place}", "--sw-registry", good)
    run(*options, claims="known_place").assert_outcomes(passed=1)
    written(named("org/new", super_weights=(Place("[1, 41, 24]", 4.0),)))
    run(*options, claims="known_place").assert_outcomes(failed=1)
