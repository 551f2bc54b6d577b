"""The models that are known: what a registry file may say, and what a person may type."""

from decimal import Decimal

import pytest

from superweight.checkpoints.registry import ModelEntry, PublishedScalar, load_registry, resolve
from superweight.claims.paper.pruning import PERPLEXITY_RATIO
from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput


@pytest.fixture
def registry_of(tmp_path):
    def write(text):
        path = tmp_path / "models.toml"
        path.write_text(text, encoding="utf-8")
        return load_registry(path)

    return write


def test_shipped_registry_holds_the_tiny_checkpoints():
    """The registry in the repository is readable and knows the three hermetic models."""
    registry = load_registry()
    hermetic = {name for name, entry in registry.items() if entry.tier == "hermetic"}
    assert {"tiny-planted", "tiny-plain", "tiny-tuned"} == hermetic
    assert {Coordinate(1, 41, 23)} == registry["tiny-planted"].coordinates


def test_source_defaults_to_the_name(registry_of):
    """A hub model is named by its hub id and needs no source."""
    assert "org/name" == registry_of('[models."org/name"]')["org/name"].source


def test_root_is_the_folder_of_the_registry(registry_of, tmp_path):
    """A relative source is meant from where the registry lies, not from where a person stands."""
    assert tmp_path == registry_of('[models.m]\nsource = "here"')["m"].root


def test_values_keep_the_digits_they_were_published_with(registry_of):
    """1.20 and 1.2 are different claims about precision, so trailing zeros survive."""
    (scalar,) = registry_of("[models.m]\nsuper_weights = [[1, 2, 3]]\nvalues = [1.20]")["m"].super_weights
    assert "1.20" == str(scalar.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[models.m]\ncolour = 1", "unknown field `colour`"),
        ("[models.m]\nroot = '/'", "unknown field `root`"),
        ("[models.m]\ntier = 'moon'", "tier 'moon' is none of"),
        ("[models.m]\nexpect = { C3 = 'maybe' }", "expect.C3 'maybe' is none of"),
        ("[models.m]\nsuper_weights = [[1, 2, 3]]\nvalues = [1.0, 2.0]", "1 super_weights but 2 values"),
        ("[models.m]\nsuper_weights = [[1, 2, 3], [1, 2, 3]]", "listed twice"),
        ("[models.m]\nsuper_weights = [[1, -2, 3]]", "negative index"),
        ("[models.m]\nsuper_weights = [[1, 2]]", "model 'm'"),
        ("[models.m]\nsuper_weights = [[1, 2, 3]]\nvalues = [nan]", "not a finite number"),
        ("[models.m]\nsuper_weights = [[1, 2, 3]]\nvalues = [-inf]", "not a finite number"),
        ("[models.m]\nsuper_activation = { channel = 1, colour = 2 }", "colour"),
        ("[models.m]\nsuper_activation = { token = 1 }", "neither channel nor onset"),
        (
            "[models.m]\nsuper_activation = { channel = 1, magnitude = 'big' }",
            "`str` - at `super_activation.magnitude`",
        ),
        ("[models.m]\nstored_as = 'int3'", "stored_as 'int3' is none of"),
        ("[models.m]\nvalues_read_as = 'int3'", "values_read_as 'int3' is none of"),
        ("[models.m]\nparameters = 'many'", "Expected `int | null`, got `str` - at `parameters`"),
        ("[models.m]\ngated = 'yes'", "Expected `bool`, got `str` - at `gated`"),
        ("[models.m]\nsource = 'o/n@x'\nrevision = 'y'", "a revision is given twice"),
        ("[[models.m.other_readings]]\ncited = 'x'", "lists no super_weights"),
        ("[[models.m.other_readings]]\nsuper_weights = [[1, 2, 3]]", "cited"),
        ("[models.m]\neffects = [{ pruned = 'all', ratio = [], text = 't', by = 'b' }]", "is no list of"),
        ("[models.m]\neffects = [{ pruned = 'all', ratio = [nan], text = 't', by = 'b' }]", "is no list of"),
        ("[models.m]\neffects = [{ pruned = 'some', ratio = [2], text = 't', by = 'b' }]", "pruned 'some'"),
        ("[models.m]\ntuned_from = 'nobody'", "'m' is tuned from unknown 'nobody'"),
        ("[models.m]\nparameters = 0", "Expected `int` >= 1 - at `parameters`"),
        ("[models.m]\ncited = 3", "Expected `str | null`, got `int` - at `cited`"),
        ("[models.m]\nsuper_weights = [[1, 2.5, 3]]", "at `super_weights[0][1]`"),
        ("[models.m]\nundecided = { C3 = [1, 2] }", "undecided.C3 is given, and expect.C3 is not"),
        (
            "[models.m]\nexpect = { C3 = 'inconclusive' }\nundecided = { C3 = [2, 1] }",
            "undecided.C3 is [2, 1], not a lowest and a highest value",
        ),
        (
            "[models.m]\nexpect = { C3 = 'inconclusive' }\nundecided = { C3 = [1, inf] }",
            "undecided.C3 is [1, Infinity]",
        ),
        ("[models.m]\nundecided = { C3 = [1] }", "at `undecided[...]`"),
        ("models = 3", "lists no models"),
        ("models.m = 3", "model 'm'"),
        ("", "lists no models"),
        ("[models.m", "cannot read the model registry"),
    ],
    ids=[
        "unknown field",
        "root is not a field",
        "tier",
        "expected status",
        "too many values",
        "listed twice",
        "negative",
        "two indices",
        "nan value",
        "infinite value",
        "unknown part of an activation",
        "activation without channel",
        "magnitude",
        "stored dtype",
        "read dtype",
        "parameters",
        "gated",
        "two revisions",
        "empty reading",
        "reading without a source",
        "no ratio",
        "nan ratio",
        "pruned",
        "unknown base",
        "no parameters",
        "number for a text",
        "broken index",
        "a range of what is decided",
        "a range upside down",
        "a range without an end",
        "half a range",
        "no tables",
        "not a table",
        "empty",
        "not TOML",
    ],
)
def test_refuses_a_registry_that_is_wrong(registry_of, tmp_path, text, complaint):
    """Every mistake in a registry is one line that names the file and what is wrong."""
    with pytest.raises(BadInput) as caught:
        registry_of(text)
    message = str(caught.value)
    assert 1 == len(message.splitlines())
    assert str(tmp_path / "models.toml") in message
    assert complaint in message


def test_refuses_a_registry_that_is_not_there(tmp_path):
    """A registry file that does not exist is bad input, named."""
    with pytest.raises(BadInput, match=r"cannot read the model registry .*nowhere\.toml"):
        load_registry(tmp_path / "nowhere.toml")


def test_refuses_a_registry_that_is_not_utf_8(tmp_path):
    """Bytes that are no text are bad input, not a UnicodeDecodeError."""
    (tmp_path / "models.toml").write_bytes(b"[models.m]\ncaveat = '\xff'")
    with pytest.raises(BadInput, match="cannot read the model registry"):
        load_registry(tmp_path / "models.toml")


@pytest.mark.parametrize(
    ("published", "measured", "agrees"),
    [
        ("-1.927", -1.9274, True),
        ("-1.927", -1.9276, False),
        ("-1.927", 1.927, False),
        ("0.6", 0.649, True),
        ("0.60", 0.649, False),
        ("4.0", 4.05, True),
        ("12", 12.4, True),
        ("12", 12.6, False),
    ],
)
def test_agrees_to_the_digits_that_were_published(published, measured, agrees):
    """Half of the last published digit is the tolerance, sign included."""
    assert agrees is PublishedScalar(Coordinate(1, 2, 3), Decimal(published)).agrees_with(measured, 0.0)


def test_a_coarse_dtype_widens_what_agrees():
    """A build that cannot hold the published digits is only held to the ones it has."""
    scalar = PublishedScalar(Coordinate(1, 2, 3), Decimal("1.5703"))
    assert not scalar.agrees_with(1.5750, 0.0)
    assert scalar.agrees_with(1.5750, 2.0**-7)
    assert not scalar.agrees_with(1.5850, 2.0**-7)


def test_nothing_published_agrees_with_everything():
    """A place without a value says nothing about the value."""
    assert PublishedScalar(Coordinate(1, 2, 3)).agrees_with(123.0, 0.0)


def test_to_publish_a_place_is_to_expect_c1(registry_of):
    """C1 is expected where coordinates or an activation are published, and only there."""
    registry = registry_of(
        "[models.weights]\nsuper_weights = [[1, 2, 3]]\n"
        "[models.activation]\nsuper_activation = { channel = 1 }\n"
        "[models.silent]\n"
        "[models.contrary]\nsuper_weights = [[1, 2, 3]]\nexpect = { C1 = 'refuted', C3 = 'inconclusive' }\n"
    )
    assert "supported" == registry["weights"].expected("C1")
    assert "supported" == registry["activation"].expected("C1")
    assert registry["silent"].expected("C1") is None
    assert "refuted" == registry["contrary"].expected("C1")
    assert "inconclusive" == registry["contrary"].expected("C3")
    assert registry["weights"].expected("C3") is None


def test_what_is_undecided_has_a_range(registry_of):
    """From the lowest to the highest value of the statistic, and of one value too."""
    text = "[models.m]\nexpect = { C3 = 'inconclusive', C4 = 'inconclusive' }\n"
    entry = registry_of(text + "undecided = { C3 = [0.1, 0.3], C4 = [2, 2] }")["m"]
    assert {"C3": (0.1, 0.3), "C4": (2.0, 2.0)} == entry.undecided


def test_resolve_finds_a_registered_name(registry_of):
    """A registry name is that registry's entry."""
    registry = registry_of("[models.m]\nsource = 'here'")
    assert registry["m"] is resolve("m", registry)


def test_resolve_moves_an_entry_elsewhere(registry_of, tmp_path):
    """NAME=SOURCE keeps what is published about NAME and drops where its files lay and their hashes."""
    registry = registry_of(
        "[models.m]\nsource = 'wheel:p==1'\nmember = 'a.gguf'\n"
        "member_sha256 = 'ff'\nsuper_weights = [[1, 2, 3]]\n"
    )
    moved = resolve(f"m={tmp_path / 'x=y'}", registry)
    assert ("m", str(tmp_path / "x=y")) == (moved.name, moved.source)
    assert registry["m"].coordinates == moved.coordinates
    assert (None, None) == (moved.member, moved.member_sha256)
    # From where the person stands: an absolute path here, but a relative one just as well.
    assert moved.root != registry["m"].root


def test_resolve_asks_for_the_missing_source(registry_of):
    """NAME= without a source says what belongs after the equals sign."""
    with pytest.raises(BadInput, match=r"'m=': give a directory, a \.gguf file or a hub id"):
        resolve("m=", registry_of("[models.m]"))


@pytest.mark.parametrize(
    "spec", ["some/where", "wheel:project==1.0", "stranger=place"], ids=["path or hub", "wheel", "stranger"]
)
def test_resolve_takes_anything_else_for_a_source(registry_of, spec):
    """About a source that is not registered nothing is published and nothing expected."""
    entry = resolve(spec, registry_of("[models.m]"))
    assert ModelEntry(name=spec, source=spec) == entry
    assert entry.expected("C1") is None


def test_a_value_read_in_a_coarser_dtype_is_held_to_that(registry_of):
    """What was read in float16 was rounded to its grid before it was rounded to its digits."""
    text = "[models.{}]\nsuper_weights = [[1, 2, 3]]\nvalues = [1.31445]\n"
    registry = registry_of(text.format("a") + text.format("b") + "values_read_as = 'float16'")
    (exact,), (rounded,) = registry["a"].super_weights, registry["b"].super_weights
    assert (False, True) == tuple(each.agrees_with(1.3140, 2.0**-23) for each in (exact, rounded))
    assert not rounded.agrees_with(1.3130, 2.0**-23)


def test_conflicting_readings_are_both_kept(registry_of):
    """The one that is held to be right comes first; the others keep who said so."""
    entry = registry_of(
        "[models.m]\ncited = 'code'\nsuper_weights = [[2, 3, 4]]\n"
        "[[models.m.other_readings]]\ncited = 'table'\nnote = 'printed so'\nsuper_weights = [[1, 3, 4]]"
    )["m"]
    assert [("code", {Coordinate(2, 3, 4)}), ("table", {Coordinate(1, 3, 4)})] == [
        (reading.cited, reading.coordinates) for reading in entry.readings
    ]


def test_a_revision_is_part_of_the_address(registry_of):
    """A pinned revision is asked for, until the files lie elsewhere."""
    registry = registry_of("[models.'o/n']\nrevision = 'abc'")
    assert "o/n@abc" == registry["o/n"].address
    assert "/here" == resolve("o/n=/here", registry).address


def test_the_shipped_registry_is_complete():
    """Every model for a GPU says what memory it needs, who is cited, and has something to be held to."""
    on_gpu = [entry for entry in load_registry().values() if entry.tier == "gpu"]
    assert 20 == len(on_gpu)
    for entry in on_gpu:
        assert entry.weight_bytes(), entry.name
        assert entry.cited, entry.name
        assert entry.super_weights or entry.super_activation, entry.name
        assert set(entry.expect) <= {f"C{number}" for number in range(1, 17)}, entry.name
    first = ["mistralai/Mistral-7B-v0.1", "deepseek-ai/deepseek-llm-7b-base"]
    assert first == [entry.name for entry in on_gpu][:2]


def test_what_is_expected_of_c3_is_what_the_published_spread_supports():
    """All published ratios of a pruned set lie on one side of C3's threshold, and that is expected."""
    judged = 0
    for entry in load_registry().values():
        spread = [effect for effect in entry.effects if effect.pruned == "all"]
        if spread:
            low, high = min(each.low for each in spread), max(each.high for each in spread)
            status = (
                "supported" if low >= PERPLEXITY_RATIO else "refuted" if high < PERPLEXITY_RATIO else None
            )
            assert status == entry.expected("C3"), entry.name
            judged += 1
    assert 10 == judged


def test_known_conflicts_are_data():
    """The misprinted layer, the unsettled column, the sibling, and the untrustworthy notebook."""
    registry = load_registry()
    conflicts = {
        "allenai/OLMo-1B-0724-hf": {Coordinate(1, 1764, 1710), Coordinate(1, 1764, 8041)},
        "meta-llama/Llama-2-13b-hf": {Coordinate(3, 4743, 8811)},
        "meta-llama/Llama-2-7b-hf": {Coordinate(1, 2533, 7890), Coordinate(1, 1415, 7890)},
        "deepseek-ai/deepseek-llm-7b-base": {Coordinate(1, 655, 6138)},
    }
    assert conflicts == {
        name: set(entry.other_readings[0].coordinates)
        for name, entry in registry.items()
        if entry.other_readings
    }
