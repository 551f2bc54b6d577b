"""What ``superweight scan`` says: the finding first, how much it carries, and how sure it is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from superweight.cli.scan_text import scan_lines
from superweight.core.coordinates import Coordinate, GainCoordinate
from superweight.core.readable import readable, times, titled
from superweight.core.statistics import Interval
from superweight.detection.detect import detect
from superweight.detection.findings import Detection
from superweight.detection.scan import scan
from superweight.detection.steadiness import look_at_prompts, steadiness
from superweight.measurement.conditions import (
    GAINS,
    OTHER_GAINS,
    PRUNED,
    SINGLES,
    alone,
    controls,
    parts_of,
    treatments,
)
from superweight.measurement.corpus import BUILTIN, cut, default_prompt, documents, prompts
from superweight.measurement.effect import Ratio, measure_effect, summary
from superweight.measurement.evaluate import measure
from tests.helpers.live_models import TEXT
from tests.model.families import FAMILIES, planted_in

PLACE = Coordinate(1, 41, 23)


@pytest.fixture(scope="module")
def found(planted):
    return scan(planted, default_prompt())


@pytest.fixture(scope="module")
def effect(planted, found):
    return measure_effect(planted, found, cut(planted, documents(BUILTIN), BUILTIN))


def test_the_first_line_says_where_how_large_what_of_and_how_much(superweight):
    """One sentence that answers what people ask of a model."""
    first, table, scalar, *_ = superweight("scan", "tiny-planted").stdout.splitlines()
    assert "tiny-planted: super activation " in first
    assert (
        "on channel 41 (token 0, blocks 1 to 3): made of 1 scalar in block 1; carries the model (x" in first
    )
    assert "super weight" in table
    assert scalar.startswith("[1, 41, 23]")


def test_without_effect_nothing_is_measured(superweight):
    """--no-effect leaves the look out, on the page and in the JSON; the rest is the same."""
    result = superweight("scan", "tiny-planted", "--no-effect", "--json", "-")
    document = json.loads(result.stdout)
    assert "effect" not in document
    assert 9 == document["prompts"]["count"]
    assert "measuring" not in result.stderr
    assert "carries" not in superweight("scan", "tiny-planted", "--no-effect").stdout


def test_the_effect_is_what_the_first_look_of_the_claims_measures(superweight, planted, found):
    """The same windows, the same ratio: a look at the first eight of the shuffled windows."""
    document = json.loads(superweight("scan", "tiny-planted", "--json", "-").stdout)["effect"]
    windows = cut(planted, documents(BUILTIN), BUILTIN).shuffled()
    few = replace(windows, ids=windows.ids[:8])
    measured = measure(planted, few, [item for item in treatments(found) if item.name == PRUNED])
    expected = measured[PRUNED].perplexity / measured["intact"].perplexity
    (core,) = [item for item in document["conditions"] if item["condition"] == PRUNED]
    assert expected == pytest.approx(core["perplexity_ratio"], rel=1e-4)
    low, high = core["interval"]
    assert low <= expected <= high
    assert 8 == document["windows"]
    assert document["verdict"].startswith("carries the model (x")


def test_the_controls_are_of_the_same_matrices_and_do_next_to_nothing(effect):
    """They prune as many scalars and more, and the model does not notice."""
    assert {"20 largest others of the same matrices", "random others of the same matrices"} == {
        *effect.beside
    }
    assert all(ratio.value < 1.2 for ratio in effect.beside.values())
    assert effect.whole.value > 100


def test_one_scalar_alone_is_the_whole_core(effect):
    """Its own figure is the core's; it is not measured twice."""
    assert effect.whole == effect.alone(0)


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (15038.2, 1600.0, 141000.0, "carries the model (x15,038)"),
        (1.4, 1.2, 1.6, "carries little (x1.4)"),
        (2.3, 1.2, 4.4, "carries part of the model (x2.3)"),
        (12.0, 4.0, 36.0, "carries part of the model (x12)"),
        (1.5, 0.1, 22.0, "carries part of the model (x1.5)"),
    ],
)
def test_what_it_carries_is_said_by_the_interval(value, low, high, words):
    """It carries the model where all of the interval does, and little where none of it does."""
    assert words == Ratio(value, Interval(low, high), 1).words


def test_a_model_without_a_super_activation_has_nothing_to_measure(superweight):
    """It says so in the first line."""
    result = superweight("scan", "tiny-plain")
    assert "tiny-plain: none found: no super activation, so nothing to prune" in result.stdout
    assert "measuring" not in result.stderr


def test_each_line_of_a_scalar_fits_80_columns(planted, found):
    """With large indices, gains, ranks and prompts too."""
    steady = look_at_prompts(planted, found, prompts().values())
    place = Coordinate(127, 16383, 53247)
    weight = replace(found.super_weights[0], coordinate=place, value=-0.00123456)
    wide = replace(found, super_weights=(weight,), ranks={place: 97_730_000})
    seen = {place: steady.seen[PLACE]}
    lines = list(scan_lines(planted, wide, replace(steady, seen=seen), None))
    (line,) = [line for line in lines if line.startswith(str(place))]
    assert len(line) <= 80


def test_what_one_prompt_of_nine_shows_is_said_to_be_no_super_weight_of_the_model(planted, found):
    """Found by the scan's own prompt and by no other; and one that another prompt alone shows."""
    here, nothing = detect_default(planted), Detection((), (), ())
    other = replace(here.super_weights[0], coordinate=Coordinate(2, 5, 6))
    once = steadiness(found, [here, *[nothing] * 7, Detection((), (other,), ())])
    assert (1, 9) == (once.seen[PLACE].prompts, once.seen[PLACE].of)
    lines = list(scan_lines(planted, found, once, None))
    assert "[1, 41, 23] is found in 1 of 9 prompts: not a super weight of the model" in lines
    assert "[2, 5, 6] is found in 1 of 9 prompts: not one of the model" in lines
    always = steadiness(found, [here] * 9)
    assert not any("not a super weight" in line for line in scan_lines(planted, found, always, None))


def detect_default(subject):
    from superweight.detection.run_trace import trace

    return detect(trace(subject, default_prompt()))


def test_nine_prompts_in_one_batch_say_what_each_says_alone(planted, found):
    """Padding changes nothing: the count, and the least and greatest part."""
    from superweight.detection.run_trace import trace

    steady = look_at_prompts(planted, found, prompts().values())
    parts = [detect(trace(planted, text)).parts[PLACE] for text in prompts().values()]
    assert (len(parts), pytest.approx(min(parts)), pytest.approx(max(parts))) == (
        steady.seen[PLACE].prompts,
        steady.seen[PLACE].least,
        steady.seen[PLACE].greatest,
    )


def test_gains_are_pruned_as_a_condition_of_their_own_beside_gains_of_the_same_norm(planted):
    """In treatments and controls: what the claims and the scan measure."""
    subject = FAMILIES["Gemma 3"].build(planted)
    with planted_in(subject) as place:
        found = scan(subject, TEXT)
        gain = GainCoordinate(place.layer, "post_feedforward_layernorm", place.row)
        named = {item.name: item for item in [*treatments(found), *controls(subject, found)]}
        assert (gain,) == tuple(edit.coordinate for edit in named[GAINS].gains)
        (other,) = named[OTHER_GAINS].gains
        assert (gain.layer, gain.norm) == (other.coordinate.layer, other.coordinate.norm)
        assert gain.channel != other.coordinate.channel
        steady = look_at_prompts(subject, found, [TEXT, TEXT + " And another."])
        assert 2 == steady.seen[gain].prompts
        assert "1 scalar in block 1 and 1 gain behind the MLP in block 1" in summary(found, None)


def test_of_many_scalars_only_the_largest_parts_are_pruned_alone(found):
    """The number of single conditions is bounded; those are the ones that make most."""
    (weight,) = found.super_weights
    many = tuple(
        replace(weight, coordinate=Coordinate(1, 41, col), part=(col + 1) / 100) for col in range(20)
    )
    crowd = replace(found, super_weights=many)
    singles = [item for item in parts_of(crowd) if item.name.endswith("alone")]
    assert SINGLES == len(singles)
    assert [alone(index) for index in range(12, 20)] == [item.name for item in singles]
    every = treatments(crowd)
    assert SINGLES == sum(item.name.startswith("all but") for item in every)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (15038.2, "15,038"),
        (103794.86, "103,795"),
        (2.5e9, "2,500 million"),
        (24058.2, "24,058"),
        (1.4, "1.4"),
        (0.00002, "0.00002"),
        (0.12345, "0.1235"),
        (-8123.4, "-8,123"),
        (0.0, "0"),
        (4e13, "40 trillion"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_numbers_are_written_for_people(value, written):
    """No power of ten where a person would write none."""
    assert written == readable(value)


@pytest.mark.parametrize("value", np.geomspace(1e-8, 1e15, 47))
def test_no_ordinary_number_is_written_with_an_exponent(value):
    """Of any size that is met here."""
    assert "e" not in readable(value).replace("million", "").replace("trillion", "")
    assert "e" not in times(value).replace("million", "").replace("trillion", "")


@pytest.mark.parametrize(
    ("ratio", "written"),
    [(15038.2, "x15,038"), (1.38, "x1.4"), (1.04, "x1.04"), (23.4, "x23"), (0.98, "x0.98"), (307.7, "x308")],
)
def test_ratios_are_written_for_people(ratio, written):
    """Two digits where it is small, whole numbers where it is large."""
    assert written == times(ratio)


@pytest.mark.parametrize(
    ("model", "title"),
    [
        ("/srv/models/gemma3-270m.gguf", "gemma3-270m.gguf"),
        ("out/release", "out/release"),
        ("./out/release", "release"),
        ("models/x.gguf", "x.gguf"),
        ("org/name@main", "org/name@main"),
        ("tiny-planted", "tiny-planted"),
    ],
)
def test_a_model_named_by_its_file_reads_as_the_file(model, title):
    """A name on the hub stays whole."""
    assert title == titled(model)
