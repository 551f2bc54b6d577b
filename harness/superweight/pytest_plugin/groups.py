"""Tell xdist's controller the groups of tests, for ``--dist loadgroup`` under any release of pytest.

A worker of pytest-xdist 3.8 hands a test's group to the controller behind its id. From pytest 9.2 on an
id cannot be written to, and every test would be scheduled by itself: each worker would load each model.
So workers write their groups to a folder that the controller names, and the scheduler looks there.
Only xdist's hooks are used.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

_INPUT = "superweight_groups"
_FOLDER = pytest.StashKey[TemporaryDirectory[str]]()


def tell(node: Any) -> None:
    """Tell a worker on this machine where its groups are looked for; ``node`` is xdist's controller of it."""
    config = node.config
    if config.getvalue("dist") != "loadgroup" or not node.gateway.spec.popen:
        return
    if _FOLDER not in config.stash:
        config.stash[_FOLDER] = TemporaryDirectory(prefix="superweight-groups-")
        config.add_cleanup(config.stash[_FOLDER].cleanup)
    node.workerinput[_INPUT] = config.stash[_FOLDER].name


def hand_over(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Write the groups of what this worker collected, before it says to the controller that it has."""
    told: dict[str, Any] = getattr(config, "workerinput", {})
    if _INPUT in told:
        groups = {item.nodeid: name for item in items if (name := _group(item)) is not None}
        path = Path(told[_INPUT]) / f"{told['workerid']}.json"
        path.write_text(json.dumps(groups), encoding="utf-8")


def _group(item: pytest.Item) -> str | None:
    """Return the name of a test's group, made of several marks as xdist makes it."""
    marks = item.iter_markers("xdist_group")
    names = {str(mark.args[0] if mark.args else mark.kwargs.get("name", "default")) for mark in marks}
    return "_".join(sorted(names)) or None


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Return xdist's scheduler by group, which knows the groups by what workers wrote; else None."""
    if config.getvalue("dist") != "loadgroup" or _FOLDER not in config.stash:
        return None
    # xdist is there: it asked.
    from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-untyped]

    folder = Path(config.stash[_FOLDER].name)
    known: dict[str, str] = {}

    class _ByGroup(LoadGroupScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            # Every worker has collected by now. Before pytest 9.2 the id carries the group as well.
            if not known:
                for path in folder.glob("*.json"):
                    known.update(json.loads(path.read_text(encoding="utf-8")))
            group = known.get(nodeid)
            return super()._split_scope(nodeid) if group is None else group

    return _ByGroup(config, log)
