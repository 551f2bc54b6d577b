"""A test that leaves a model other than it found it is failed: what is measured after it is no finding."""

from __future__ import annotations

import pytest

LEFT = {
    "nothing": ("pass", None),
    "a hook": ("subject.model.register_forward_hook(lambda *_: None)", "carries other hooks than before"),
    "a hook before": ("subject.model.register_forward_pre_hook(lambda *_: None)", "other hooks than before"),
    "another forward": ("subject.model.forward = subject.model.forward", "forwards=1"),
    "an edit": (
        "from superweight.model.edits import Prune, edited\n"
        "    subject.model.kept = edited(subject, [Prune(evidence.scan.coordinates[0])])\n"
        "    subject.model.kept.__enter__()",
        "is still in force on tiny-planted",
    ),
    "a changed scalar": (
        "place = evidence.scan.coordinates[0]\n"
        "    subject.architecture.projection(place).weight()[place.row, place.col] *= 2",
        "super weight [1, 41, 23] of tiny-planted is 8, not 4",
    ),
}


@pytest.mark.parametrize("kind", LEFT)
def test_what_a_test_leaves_on_a_model_is_told(pytester, kind):
    """After the test itself, which passes."""
    body, said = LEFT[kind]
    fixtures = "subject, evidence" if "evidence" in body else "subject"
    pytester.makepyfile(f"def test_own({fixtures}):\n    {body}\n")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--sw-model", "tiny-planted")
    if said is None:
        result.assert_outcomes(passed=1)
    else:
        result.assert_outcomes(passed=1, errors=1)
        result.stdout.fnmatch_lines(
            [f"*{said.replace('[', '[[]')}*; what is measured from here on does not*"]
        )


def test_a_test_without_a_model_is_left_alone(pytester):
    """Nothing is loaded for it."""
    pytester.makepyfile("def test_own(): pass")
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
