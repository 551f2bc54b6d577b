"""Packed releases, compared by their files alone: sound and ruined ones are told apart."""

import pytest

from superweight.checkpoints.tensors.locations import locations
from superweight.checkpoints.tensors.open import open_checkpoint
from superweight.core.coordinates import Coordinate
from superweight.release.limits import Limits
from superweight.release.result import DAMAGED, KEPT
from superweight.release.static_checks import compare_static
from tests.release.packed_releases import AT, FORMS, as_plain, make

PLACE = Coordinate(*AT)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make(tmp_path_factory.mktemp("plain") / "base", as_plain)


def checks(base, release):
    found = compare_static(open_checkpoint(base), open_checkpoint(release), [PLACE], Limits())
    return {check.name: check for check in found}


@pytest.mark.parametrize("form", FORMS)
def test_a_sound_release_is_kept(base, tmp_path, form):
    """Its super weight's value, step and rank are known from the files, and nothing counts as emptied."""
    release = make(tmp_path / "release", FORMS[form])
    assert form == locations(open_checkpoint(release))[0].tensor.dtype
    found = checks(base, release)
    assert {KEPT} == {check.status for check in found.values()}, found
    figures = found[f"super weight {PLACE}"].figures
    assert -3.0 == pytest.approx(figures["release"], rel=0.05)
    assert (1, 1) == (figures["base_rank"], figures["release_rank"])
    assert 0 < figures["step"] <= 1
    assert figures["error_in_steps"] <= 0.51


@pytest.mark.parametrize("form", FORMS)
def test_a_release_whose_group_is_destroyed_is_damaged(base, tmp_path, form):
    """One factor of one group is enough, and the reason is the super weight."""
    found = checks(base, make(tmp_path / "release", FORMS[form], sound=False))
    assert [f"super weight {PLACE}"] == [name for name, check in found.items() if check.status == DAMAGED]
    assert -0.03 == pytest.approx(found[f"super weight {PLACE}"].figures["release"], rel=0.05)


@pytest.mark.parametrize("form", FORMS)
def test_a_packed_model_may_be_the_base(base, tmp_path, form):
    """What was tuned or converted from a packed release is held to that release."""
    packed = make(tmp_path / "packed", FORMS[form])
    assert {KEPT} == {check.status for check in checks(packed, base).values()}
    ruined = make(tmp_path / "ruined", FORMS[form], sound=False)
    assert DAMAGED == checks(packed, ruined)[f"super weight {PLACE}"].status
