"""The pytest entry point of superweight: look whose ``superweight`` this project has, then hand on the hooks.

A project may have a package or a folder named ``superweight`` of its own. Importing ours first would
hide it from that project's tests. So this module imports nothing of the package until pytest has read
its configuration, and stands aside where the name is taken.
"""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

OURS = Path(__file__).resolve().with_name("superweight")
_TAKEN = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options from their file: they must be known before the configuration is read."""
    spec = spec_from_file_location("_superweight_options", OURS / "pytest_plugin" / "options.py")
    if spec is None or spec.loader is None:
        raise pytest.UsageError(f"superweight is incomplete: {OURS} holds no options; install it again")
    options = module_from_spec(spec)
    spec.loader.exec_module(options)
    options.pytest_addoption(parser)


def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Register the plugin, or stand aside; ``pythonpath`` has taken effect, no conftest is loaded yet."""
    taken = _foreign(early_config)
    if taken is None:
        from superweight.pytest_plugin import plugin

        if not early_config.pluginmanager.is_registered(plugin):
            early_config.pluginmanager.register(plugin, "superweight-plugin")
        return
    if given := [arg for arg in args if arg.startswith("--sw-")]:
        raise pytest.UsageError(f"{given[0]} cannot be used here: {taken}; run it outside of this project")
    early_config.stash[_TAKEN] = taken


def _foreign(config: pytest.Config) -> str | None:
    """Return what has the name ``superweight`` in this project, in words, or None where it is ours."""
    for folder in {config.rootpath, config.invocation_params.dir}:
        package, module = folder / "superweight", folder / "superweight.py"
        if module.is_file() or (package.is_dir() and package.resolve() != OURS and any(package.glob("*.py"))):
            return f"{module if module.is_file() else package} has the name of this plugin's package"
    found = find_spec("superweight")
    # Any copy of ours has this module beside the package.
    if found and found.origin and (Path(found.origin).parents[1] / Path(__file__).name).is_file():
        return None
    return f"{found.origin if found else 'something'} has the name of this plugin's package"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say in one line that the plugin stood aside; no warning, which may be configured to be an error."""
    if taken := config.stash.get(_TAKEN, None):
        terminalreporter.write_line(f"warning: superweight stands aside: {taken}", yellow=True)
