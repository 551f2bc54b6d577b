"""A program that uses the package as its users do, for type checkers: every name has its exact type."""

from __future__ import annotations

from typing import assert_type

import superweight as sw


def use(path: str) -> None:
    model = sw.load(path, device="cpu")
    assert_type(model, sw.Subject)
    found = sw.scan(model, "The tide")
    assert_type(found, sw.Scan)
    assert_type(found.prune(), tuple[sw.Scale, ...])
    assert_type(found.coordinates, tuple[sw.Coordinate, ...])
    with sw.edit(model, [sw.Prune(sw.Coordinate(1, 2, 3)), sw.PatchActivation(1, 0, 2, 0.0)]):
        assert_type(sw.perplexity(model), float)
        assert_type(sw.generate(model, "The tide"), str)
    for name, measured in sw.measure(model, {"half": found.scale(0.5)}).items():
        assert_type(name, str)
        assert_type(measured.perplexity, float)
    checked = sw.check(model, path)
    assert_type(checked.as_expected, bool)
    assert_type(checked.verdicts, tuple[sw.Verdict, ...])
    checked.report("out")
    assert_type(sw.compare(model, path), sw.Comparison)
