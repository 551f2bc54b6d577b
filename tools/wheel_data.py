"""A build hook: put the data and the claims inside the package, in a wheel only.

An editable install finds both beside the package; a copy of them in site-packages would grow stale.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

INSIDE = {
    "fixtures": "superweight/fixtures",
    "tests/claims/test_paper.py": "superweight/suite/test_paper.py",
    "tests/claims/test_release.py": "superweight/suite/test_release.py",
}


class WheelData(BuildHookInterface[Any]):
    """Adds what lies outside of the package to a standard wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"].update(INSIDE)
