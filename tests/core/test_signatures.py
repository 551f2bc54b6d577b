"""What holds of every module of the harness: values stay as they are, and flags are given by name."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil

import pytest

import superweight

# What hooks fill while a model runs, and what a writer fills while it writes.
GATHERED = {
    "SpeculativePruning",
    "Record",
    "BlockRecord",
    "FollowedWrites",
    "PassCount",
    "_Part",
    "Tally",
    "Cost",
}
MODULES = sorted(module.name for module in pkgutil.walk_packages(superweight.__path__, "superweight."))


def defined(name, kind):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if str(missing.name).partition(".")[0] == "superweight":
            raise
        pytest.skip(f"{name} needs {missing.name}, which an extra brings")
    return [item for item in vars(module).values() if kind(item) and item.__module__ == name]


@pytest.mark.parametrize("name", MODULES)
def test_what_is_known_is_frozen(name):
    """Every dataclass, but those that gather, refuses to be changed after it was made."""
    for found in filter(dataclasses.is_dataclass, defined(name, inspect.isclass)):
        assert found.__dataclass_params__.frozen == (found.__qualname__ not in GATHERED), found


@pytest.mark.parametrize("name", MODULES)
def test_flags_and_levels_are_given_by_name(name):
    """No call reads `bootstrap(values, None, True)`: what a bare True or 0.95 means, its name says."""
    for function in defined(name, inspect.isfunction):
        for parameter in inspect.signature(function).parameters.values():
            if str(parameter.annotation) == "bool" or parameter.name == "level":
                assert parameter.kind is parameter.KEYWORD_ONLY, f"{function.__qualname__}: {parameter}"
