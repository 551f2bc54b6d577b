"""Fixtures of the harness's own tests: tiny models, trained ones and planted ones."""

from __future__ import annotations

import os

# Nothing here is compiled, and hqq, where it is installed, asks for a compiler in every process that
# imports transformers; a process without saves half a second.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner

from superweight.checkpoints.cache import cache_directory
from superweight.checkpoints.registry import resolve
from superweight.cli.main import main
from superweight.core.errors import BadInput
from superweight.pytest_plugin.xdist import share_cores

# What imports torch is imported inside the fixtures: xdist's controller has no use for it, and its workers
# would wait for it.
REPOSITORY = Path(__file__).parent

# pytester gives every test a home of its own, where the real model would be downloaded and converted
# anew and matplotlib would look for every font again.
os.environ["XDG_CACHE_HOME"] = str(cache_directory().parent)
# Not only for models that the plugin obtains: two workers that compute on all cores wait for each other.
share_cores()


@pytest.fixture(scope="session")
def planted():
    """The tiny trained model that depends on its one super weight."""
    from superweight.model.loading import load

    return load(resolve("tiny-planted"), device="cpu")


@pytest.fixture(scope="session")
def plain():
    """Its twin, which has none."""
    from superweight.model.loading import load

    return load(resolve("tiny-plain"), device="cpu")


@pytest.fixture(scope="session")
def write_safetensors():
    """Write a safetensors file, byte by byte: arrays, or (dtype, shape, bytes) where numpy has no type."""
    from tests.helpers import checkpoint_files

    return checkpoint_files.write_safetensors


@pytest.fixture(scope="session")
def refusal():
    """The one line in which something is refused as bad input."""

    def line(function, *arguments, **options):
        with pytest.raises(BadInput) as caught:
            function(*arguments, **options)
        assert 1 == len(str(caught.value).splitlines())
        return str(caught.value)

    return line


@pytest.fixture
def superweight(monkeypatch):
    """Run the command in the repository, where the committed baselines are."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.delenv("CI", raising=False)
    return lambda *arguments: CliRunner().invoke(main, arguments)


@pytest.fixture(scope="session")
def _pictures():
    """Every picture that was drawn so far, by its chart."""
    from superweight.report.render import drawn

    return cache(drawn)


@pytest.fixture
def drawn_once(monkeypatch, _pictures):
    """Take a figure that another test had drawn from the same numbers: drawing is most of a report."""
    from superweight.report import output

    monkeypatch.setattr(output, "drawn", _pictures)
